#include "lib/verify/compare/moved_rows.h"

#include <algorithm>
#include <set>

#include "lib/layout/decide.h"
#include "lib/layout/row_map.h"
#include "lib/model/names.h"

namespace mimo {
namespace {

constexpr size_t kLookedAt = 192;      // rows of a tensor that are looked for
constexpr int64_t kLeastColumns = 32;  // rows of fewer have too little to be known by
constexpr int64_t kFewRows = 16;       // of a counterpart

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

}  // namespace

Result<const MovedRows::Sketches*> MovedRows::SketchOf(const LogicalTensor& tensor) {
  const TensorId& id = tensor.rows.array().id;
  const std::pair<bool, int32_t> layer(id.mtp, id.layer);
  if (kept_layer_ != layer) kept_.clear();
  kept_layer_ = layer;
  auto [kept, fresh] = kept_.try_emplace(&tensor);
  if (fresh) MIMO_RETURN_IF_ERROR(SketchRows(a_, tensor, /*turned=*/false, &kept->second));
  return static_cast<const Sketches*>(&kept->second);
}

// The other projections of its attention, or the other half of its MLP: what is stored beside it.
std::vector<const LogicalTensor*> MovedRows::Neighbours(const LogicalTensor& tensor) const {
  constexpr std::array<std::string_view, 3> kAttention = {".q_proj.", ".k_proj.", ".v_proj."};
  constexpr std::array<std::string_view, 2> kMlp = {".gate_proj.", ".up_proj."};
  std::vector<const LogicalTensor*> found;
  const auto look = [&](const auto& parts) {
    for (const std::string_view part : parts) {
      const size_t at = tensor.name.find(part);
      if (at == std::string::npos) continue;
      for (const std::string_view other : parts) {
        if (other == part) continue;
        const LogicalTensor* there =
            a_.Find(tensor.name.substr(0, at) + std::string(other) + tensor.name.substr(at + part.size()));
        if (there != nullptr && there->rows.cols() == tensor.rows.cols()) found.push_back(there);
      }
    }
  };
  look(kAttention);
  look(kMlp);
  return found;
}

// The same of other experts, and of other layers.
std::vector<const LogicalTensor*> MovedRows::Counterparts(const LogicalTensor& tensor) const {
  const TensorId& id = tensor.rows.array().id;
  std::vector<const LogicalTensor*> found;
  for (const LogicalTensor& other : a_.tensors()) {
    const TensorId& there = other.rows.array().id;
    const bool expert = there.expert != id.expert && there.layer == id.layer && there.mtp == id.mtp;
    const bool layer = there.expert == id.expert && (there.layer != id.layer || there.mtp != id.mtp);
    if (there.role == id.role && there.part == id.part && (expert || layer) && id.role != Role::kUnknown &&
        other.rows.array().shape == tensor.rows.array().shape)
      found.push_back(&other);
  }
  return found;
}

int64_t MovedRows::HeadRows(const TensorId& id) const {
  const ModelConfig& config = a_.checkpoint().catalogue().config;
  if (id.role != Role::kAttnQ && id.role != Role::kAttnK && id.role != Role::kAttnV) return 0;
  const AttentionShape& shape = config.attention_of(id.layer, id.mtp);
  return id.role == Role::kAttnV ? shape.v_head_dim : shape.head_dim;
}

PlaceFinding MovedRows::InItself(const LogicalTensor& tensor, const std::vector<Match>& matches, size_t looked) const {
  std::vector<int64_t> shifts;
  for (const Match& match : matches) shifts.push_back(match.row - match.from);
  const auto [shift, alike] = MostCommon(shifts);
  const std::string share = SharePart(matches.size(), looked);
  const int64_t head = HeadRows(tensor.rows.array().id);
  if (head > 0) {
    std::map<int64_t, int64_t> heads;  // of B -> of A
    size_t whole = 0;
    for (const Match& match : matches) {
      whole += match.row % head == match.from % head;
      if (match.row % head == match.from % head) heads[match.row / head] = match.from / head;
    }
    const bool uniform = std::all_of(heads.begin(), heads.end(), [&](const auto& move) {
      return move.first - move.second == heads.begin()->first - heads.begin()->second;
    });
    if (whole * 10 >= matches.size() * 9 && !heads.empty() && !(uniform && heads.size() > 2)) {
      std::string moves;
      size_t shown = 0;
      for (const auto& [here, there] : heads)
        if (++shown <= 4) moves += (moves.empty() ? "" : ", ") + std::to_string(here) + " is " + std::to_string(there);
      const bool two = heads.size() == 2 && heads.begin()->first == heads.rbegin()->second &&
                       heads.begin()->second == heads.rbegin()->first;
      return {two ? "heads.swapped" : "heads.permuted", "head " + moves + (shown > 4 ? ", ..." : "") + "; " + share, 0};
    }
  }
  if (alike * 10 >= matches.size() * 8) return {"rows.shifted", "by " + std::to_string(shift) + " rows; " + share, 0};
  return {"rows.permuted",
          "row " + std::to_string(matches[0].row) + " is " + std::to_string(matches[0].from) + "; " + share, 0};
}

// Rows where fused(c) has them that were read as fused(d).
PlaceFinding MovedRows::OtherChunks(const LogicalTensor& tensor, const std::vector<Match>& matches) const {
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
      if (fits * 10 >= matches.size() * 8)
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
  const auto most =
      std::max_element(of.begin(), of.end(), [](const auto& x, const auto& y) { return x.second < y.second; });
  const std::string share = SharePart(matches.size(), looked);
  const bool attention = HeadRows(tensor.rows.array().id) > 0;
  if (const PlaceFinding chunks = OtherChunks(tensor, matches); !chunks.kind.empty()) return chunks;
  if (attention) return {"rows.qkv-exchanged", "rows of " + most->first->name + " stand here; " + share, 0};
  std::vector<int64_t> shifts;
  for (const Match& match : matches) shifts.push_back(match.row - match.from);
  const auto [shift, alike] = MostCommon(shifts);
  if (alike * 10 >= matches.size() * 8 && shift == 0 && most->second * 10 >= matches.size() * 8)
    return {"rows.gate-up-exchanged", "these are the rows of " + most->first->name + "; " + share, 0};
  // In turns: rows of the two alternate, in runs of a power of two.
  for (int64_t turn = 1; turn <= 128; turn *= 2) {
    size_t fits = 0;
    for (const Match& match : matches) {
      // Stored gate, up, gate, up ...; read as all of gate, then all of up.
      const int64_t offset = match.row + (tensor.name.find(".up_proj.") != std::string::npos ? tensor.rows.rows() : 0);
      const bool up = offset / turn % 2 == 1;
      const int64_t from = offset / (2 * turn) * turn + offset % turn;
      const bool found_up = match.tensor->name.find(".up_proj.") != std::string::npos;
      fits += up == found_up && from == match.from;
    }
    if (fits * 10 >= matches.size() * 8)
      return {"rows.gate-up-in-turns",
              "gate and up in turns of " + std::to_string(turn) + "; " + SharePart(fits, looked), 0};
  }
  return {"rows.gate-up-mixed", "rows of " + most->first->name + " stand here; " + share, 0};
}

Result<PlaceFinding> MovedRows::Counterpart(const TensorPair& pair, const Sketches& rows_of_b) {
  const int64_t cols = pair.b->rows.cols();
  const int64_t step = std::max<int64_t>(1, pair.b->rows.rows() / kFewRows);
  for (const LogicalTensor* other : Counterparts(*pair.b)) {
    size_t same = 0, looked = 0;
    for (int64_t row = 0; row < pair.b->rows.rows(); row += step) {
      Sketches one;
      MIMO_RETURN_IF_ERROR(SketchSomeRows(a_, *other, row, 1, &one));
      ++looked;
      same += IsSameRow(rows_of_b[static_cast<size_t>(row)], one[0], cols);
      if (looked == 2 && same == 0) break;
    }
    if (same * 10 < looked * 7) continue;
    const TensorId& here = pair.b->rows.array().id;
    const TensorId& there = other->rows.array().id;
    const bool layer = there.layer != here.layer || there.mtp != here.mtp;
    return PlaceFinding{layer ? "layers.exchanged" : "experts.permuted", "this is " + other->name, 0};
  }
  return PlaceFinding();
}

Result<PlaceFinding> MovedRows::Turned(const TensorPair& pair, const Sketches& rows_of_b) {
  if (pair.a->rows.rows() != pair.a->rows.cols()) return PlaceFinding();
  Sketches columns;
  MIMO_RETURN_IF_ERROR(SketchRows(a_, *pair.a, /*turned=*/true, &columns));
  size_t same = 0;
  for (size_t i = 0; i < columns.size(); ++i) same += IsSameRow(rows_of_b[i], columns[i], pair.a->rows.cols());
  if (same * 10 < columns.size() * 7) return PlaceFinding();
  return PlaceFinding{"tensor.transposed", "rows are columns: " + SharePart(same, columns.size()), 0};
}

Result<PlaceFinding> MovedRows::Find(const TensorPair& pair, const CellMap& map) {
  const int64_t cols = pair.b->rows.cols();
  const std::vector<int64_t> foreign = ForeignRows(map);
  if (foreign.empty() || cols < kLeastColumns) return PlaceFinding();
  Sketches rows_of_b;
  MIMO_RETURN_IF_ERROR(SketchRows(b_, *pair.b, /*turned=*/false, &rows_of_b));
  const std::vector<int64_t> looked_for = Sampled(foreign, kLookedAt);
  MIMO_ASSIGN_OR_RETURN(const Sketches* own, SketchOf(*pair.a));
  std::vector<Match> inside, outside;
  const std::vector<const LogicalTensor*> neighbours = Neighbours(*pair.a);
  for (const int64_t row : looked_for) {
    const RowSketch& sketch = rows_of_b[static_cast<size_t>(row)];
    if (const int64_t from = FindRow(sketch, *own, cols); from >= 0) {
      inside.push_back({row, pair.a, from});
      continue;
    }
    for (const LogicalTensor* other : neighbours) {
      MIMO_ASSIGN_OR_RETURN(const Sketches* sketches, SketchOf(*other));
      if (const int64_t from = FindRow(sketch, *sketches, cols); from >= 0) {
        outside.push_back({row, other, from});
        break;
      }
    }
  }
  const size_t found = inside.size() + outside.size(), looked = looked_for.size();
  if (found * 2 >= looked && outside.size() * 10 >= found) {
    outside.insert(outside.end(), inside.begin(), inside.end());
    return InOthers(*pair.a, outside, looked);
  }
  if (found * 2 >= looked) return InItself(*pair.a, inside, looked);
  MIMO_ASSIGN_OR_RETURN(PlaceFinding finding, Turned(pair, rows_of_b));
  if (finding.kind.empty()) {
    MIMO_ASSIGN_OR_RETURN(finding, Counterpart(pair, rows_of_b));
  }
  return finding;
}

}  // namespace mimo
