#include "lib/verify/compare/moved_rows.h"

#include <algorithm>
#include <array>

#include "lib/layout/decide.h"
#include "lib/layout/row_map.h"
#include "lib/model/names.h"
#include "lib/model/role_groups.h"
#include "lib/verify/compare/moved_heads.h"

namespace mimo {
namespace {

constexpr size_t kLookedAt = 192;      // rows of a tensor that are looked for
constexpr int64_t kLeastColumns = 32;  // rows of fewer have too little to be known by

// Rows of B that are not A's in their places: most of their cells are something else.
std::vector<int64_t> ForeignRows(const CellMap& map) {
  std::vector<int64_t> foreign;
  for (int64_t r = 0; r < map.rows; ++r) {
    int64_t others = 0, told = 0;
    for (int64_t c = 0; c < map.across; ++c) {
      others += map.kind(r, c) == CellKind::kOther;
      told += map.kind(r, c) != CellKind::kEmpty;
    }
    if (others * 2 > told) foreign.push_back(r);
  }
  return foreign;
}

// At most `most`, evenly, in pairs of neighbours where there are.
std::vector<int64_t> Sampled(const std::vector<int64_t>& rows, size_t most) {
  if (rows.size() <= most) return rows;
  std::vector<int64_t> sampled;
  for (size_t i = 0; i < most; ++i) sampled.push_back(rows[i * rows.size() / most]);
  return sampled;
}

std::string SharePart(size_t part, size_t whole) {
  return std::to_string(part) + " of " + std::to_string(whole) + " rows looked for";
}

// What most of `values` are, and how many.
std::pair<int64_t, size_t> MostCommon(const std::vector<int64_t>& values) {
  std::map<int64_t, size_t> counts;
  for (const int64_t value : values) ++counts[value];
  std::pair<int64_t, size_t> most{0, 0};
  for (const auto& [value, count] : counts)
    if (count > most.second) most = {value, count};
  return most;
}

constexpr std::string_view kTowerGate = ".gate_proj.", kTowerUp = ".up_proj.";

// Whether two tensors of one layer, and expert, are parts of one attention or of one gate and up.
bool GoTogether(Role role, Role other) {
  if (role == other) return false;
  if (IsAttentionProjection(role)) return IsAttentionProjection(other);
  return (IsGate(role) || IsUp(role)) && PartnerOf(role) == other;
}

bool IsUpHalf(const LogicalTensor& tensor) {
  const Role role = tensor.rows.array().id.role;
  return IsTower(role) ? tensor.name.find(kTowerUp) != std::string::npos : IsUp(role);
}

}  // namespace

std::vector<const LogicalTensor*> NeighboursOf(const LogicalCheckpoint& a, const LogicalTensor& tensor) {
  const TensorId& id = tensor.rows.array().id;
  std::vector<const LogicalTensor*> found;
  const auto take = [&](const LogicalTensor* there) {
    if (there != nullptr && there != &tensor && there->rows.cols() == tensor.rows.cols()) found.push_back(there);
  };
  if (IsTower(id.role)) {  // whose parts have no roles, and go by their names
    constexpr std::array<std::string_view, 2> kHalves = {kTowerGate, kTowerUp};
    for (const std::string_view part : kHalves)
      if (const size_t at = tensor.name.find(part); at != std::string::npos)
        for (const std::string_view other : kHalves)
          take(a.Find(tensor.name.substr(0, at) + std::string(other) + tensor.name.substr(at + part.size())));
    return found;
  }
  for (const LogicalTensor& other : a.tensors()) {
    TensorId there = other.rows.array().id;
    if (!GoTogether(id.role, there.role)) continue;
    there.role = id.role;
    if (there == id) take(&other);
  }
  return found;
}

Result<const MovedRows::Sketches*> MovedRows::SketchOf(const LogicalTensor& tensor) {
  const TensorId& id = tensor.rows.array().id;
  const std::pair<bool, int32_t> layer(id.mtp, id.layer);
  if (kept_layer_ != layer) kept_.clear();
  kept_layer_ = layer;
  auto [kept, fresh] = kept_.try_emplace(&tensor);
  if (fresh) MIMO_RETURN_IF_ERROR(SketchRows(a_, tensor, /*turned=*/false, &kept->second));
  return static_cast<const Sketches*>(&kept->second);
}

int64_t MovedRows::HeadRows(const TensorId& id) const {
  return HeadSize(a_.checkpoint().catalogue().config, id);
}

PlaceFinding MovedRows::InItself(const LogicalTensor& tensor, const std::vector<Match>& matches, size_t looked) const {
  std::vector<int64_t> shifts;
  for (const Match& match : matches) shifts.push_back(match.row - match.from);
  const auto [shift, alike] = MostCommon(shifts);
  const std::string share = SharePart(matches.size(), looked);
  const int64_t head = HeadRows(tensor.rows.array().id);
  if (alike * 10 >= matches.size() * 8 && (head == 0 || shift % head != 0))
    return {"rows.shifted", "by " + std::to_string(shift) + " rows; " + share, 0};
  if (head > 0) {
    std::map<int64_t, int64_t> heads;  // of B -> of A
    size_t whole = 0;
    for (const Match& match : matches)
      if (match.row % head == match.from % head) {
        ++whole;
        heads[match.row / head] = match.from / head;
      }
    if (whole * 10 >= matches.size() * 9) return FindingOfHeads(heads, share);
    const bool in_heads = std::all_of(matches.begin(), matches.end(),
                                      [head](const Match& match) { return match.row / head == match.from / head; });
    if (in_heads)
      return {"rows.permuted-in-heads",
              "row " + std::to_string(matches[0].row) + " is " + std::to_string(matches[0].from) + "; " + share, 0};
  }
  return {"rows.permuted",
          "row " + std::to_string(matches[0].row) + " is " + std::to_string(matches[0].from) + "; " + share, 0};
}

// Rows where fused(c) has them that were read as fused(d).
PlaceFinding MovedRows::OtherChunks(const LogicalTensor& tensor, const std::vector<Match>& matches,
                                    size_t foreign) const {
  const TensorId& id = tensor.rows.array().id;
  const ModelConfig& config = a_.checkpoint().catalogue().config;
  if (HeadRows(id) == 0) return {};
  AttentionShape shape = LogicalShape(config, config.windowed_at(id.layer, id.mtp));
  const auto projection = [](Role role) {
    return role == Role::kAttnQ ? Projection::kQ : role == Role::kAttnK ? Projection::kK : Projection::kV;
  };
  const auto order = [&](int64_t chunks) {
    std::vector<std::pair<Projection, int64_t>> rows;
    for (const RowRun& run : BuildQkvMap({QkvKind::kFused, chunks}, shape).runs)
      for (int64_t i = 0; i < run.rows; ++i) rows.emplace_back(run.projection, run.logical_row + i);
    return rows;
  };
  std::vector<int64_t> counts;
  for (int64_t chunks = 1; chunks <= shape.kv_heads; ++chunks)
    if (LayoutFits({QkvKind::kFused, chunks}, shape)) counts.push_back(chunks);
  for (const int64_t stored : counts)
    for (const int64_t read : counts) {
      if (stored == read) continue;
      const auto truth = order(stored), taken = order(read);
      std::map<std::pair<Projection, int64_t>, size_t> place;
      for (size_t i = 0; i < taken.size(); ++i) place[taken[i]] = i;
      size_t fits = 0;
      for (const Match& match : matches) {
        const auto found = place.find({projection(id.role), match.row});
        if (found == place.end() || found->second >= truth.size()) continue;
        fits += truth[found->second] == std::pair(projection(match.tensor->rows.array().id.role), match.from);
      }
      // Rows that this moves, of which nearly all must have moved.
      size_t moved = 0;
      for (int64_t row = 0; row < tensor.rows.rows(); ++row) {
        const auto found = place.find({projection(id.role), row});
        moved += found != place.end() && found->second < truth.size() && truth[found->second] != found->first;
      }
      if (fits * 10 >= matches.size() * 8 && foreign * 10 >= moved * 7 && moved * 10 >= foreign * 7)
        return {"rows.chunk-count",
                "as if fused(" + std::to_string(stored) + ") were read as fused(" + std::to_string(read) + "); " +
                    SharePart(fits, matches.size()),
                0};
    }
  return {};
}

PlaceFinding MovedRows::InOthers(const LogicalTensor& tensor, const std::vector<Match>& matches, size_t looked) const {
  std::map<const LogicalTensor*, size_t> of;
  for (const Match& match : matches) ++of[match.tensor];
  of.erase(&tensor);
  const auto most =
      std::max_element(of.begin(), of.end(), [](const auto& x, const auto& y) { return x.second < y.second; });
  const std::string share = SharePart(matches.size(), looked);
  if (HeadRows(tensor.rows.array().id) > 0)
    return {"rows.qkv-exchanged", "rows of " + most->first->name + " stand here; " + share, 0};
  const auto share_of = [&](const auto& fits) {
    return static_cast<size_t>(std::count_if(matches.begin(), matches.end(), fits)) * 10 >= matches.size() * 8;
  };
  if (share_of([&](const Match& match) { return match.tensor != &tensor && match.row == match.from; }))
    return {"rows.gate-up-exchanged", "these are the rows of " + most->first->name + "; " + share, 0};
  // Of gate and up one after the other: where a row stands here, and where it came from.
  const int64_t half = tensor.rows.rows();
  const auto place = [half](const LogicalTensor& of_row, int64_t row) { return row + (IsUpHalf(of_row) ? half : 0); };
  for (int64_t turn = 1; turn <= half / 2; turn *= 2) {
    // Where rows `turn` of gate, `turn` of up and so on have that of a place in [all of gate; all of up].
    const auto in_turns = [&](int64_t at) { return at % half / turn * 2 * turn + at / half * turn + at % turn; };
    if (half % turn != 0) continue;
    const std::string words = "gate and up in turns of " + std::to_string(turn);
    if (share_of(
            [&](const Match& match) { return in_turns(place(*match.tensor, match.from)) == place(tensor, match.row); }))
      return {"rows.gate-up-in-turns", words + "; " + share, 0};
    if (share_of(
            [&](const Match& match) { return in_turns(place(tensor, match.row)) == place(*match.tensor, match.from); }))
      return {"rows.gate-up-in-turns", "one after the other, but read as " + words + "; " + share, 0};
  }
  return {"rows.gate-up-mixed", "rows of " + most->first->name + " stand here; " + share, 0};
}

Result<PlaceFinding> MovedRows::Find(const TensorPair& pair, const CellMap& map) {
  const int64_t cols = pair.b->rows.cols();
  const std::vector<int64_t> foreign = ForeignRows(map);
  if (foreign.empty() || cols < kLeastColumns) return PlaceFinding();
  Sketches rows_of_b;
  MIMO_RETURN_IF_ERROR(SketchRows(b_, *pair.b, /*turned=*/false, &rows_of_b));
  std::vector<int64_t> filled;
  for (const int64_t row : foreign)
    if (!rows_of_b[static_cast<size_t>(row)].empty()) filled.push_back(row);
  if (filled.size() * 10 < foreign.size())
    return PlaceFinding{"rows.zero",
                        std::to_string(foreign.size() - filled.size()) + " of " + std::to_string(map.rows) +
                            " rows hold nothing but zeros, row " + std::to_string(foreign[0]) + " first",
                        0};
  const std::vector<int64_t> looked_for = Sampled(filled, kLookedAt);
  MIMO_ASSIGN_OR_RETURN(const Sketches* own, SketchOf(*pair.a));
  std::vector<Match> matches;
  size_t outside = 0;
  const std::vector<const LogicalTensor*> neighbours = NeighboursOf(a_, *pair.a);
  for (const int64_t row : looked_for) {
    const RowSketch& sketch = rows_of_b[static_cast<size_t>(row)];
    if (const int64_t from = FindRow(sketch, *own, cols); from >= 0) {
      matches.push_back({row, pair.a, from});
      continue;
    }
    for (const LogicalTensor* other : neighbours) {
      MIMO_ASSIGN_OR_RETURN(const Sketches* sketches, SketchOf(*other));
      const int64_t from = FindRow(sketch, *sketches, cols);
      if (from < 0) continue;
      matches.push_back({row, other, from});
      ++outside;
      break;
    }
  }
  const size_t looked = looked_for.size();
  if (matches.empty() || matches.size() * 2 < looked) return PlaceFinding();
  if (PlaceFinding chunks = OtherChunks(*pair.a, matches, foreign.size()); !chunks.kind.empty()) return chunks;
  return outside * 10 >= matches.size() ? InOthers(*pair.a, matches, looked) : InItself(*pair.a, matches, looked);
}

}  // namespace mimo
