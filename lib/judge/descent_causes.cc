// A second look at what diverges: where else in the reference are the values of the run, and what is known to put them
// there.
#include <algorithm>
#include <cstdio>
#include <map>
#include <tuple>

#include "lib/judge/descent.h"
#include "lib/layout/gate_up.h"
#include "lib/model/role_groups.h"

namespace mimo {
namespace {

constexpr size_t kLooksOfRole = 6;        // matrices of one role that are looked at; all others are counted
constexpr size_t kUnitsOfLook = 32;       // units of a matrix whose rows are tried under known orders
constexpr size_t kMaxCandidates = 16384;  // places that are tried for a unit

// What explains a divergence best.
struct Explanation {
  std::string id = "descent.unrelated";
  std::string place;   // in words, behind "with"
  std::string advice;  // "": that of the table
  double cosine = -1;
};

std::string CosineText(double cosine) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", cosine);
  return text;
}

class CauseFinder {
 public:
  CauseFinder(FileSystem& fs, const Checkpoint& merged, const Descent& descent)
      : descent_(descent),
        view_(*merged.view),
        run_(fs, merged),
        readers_{StrandReader(fs, merged), StrandReader(fs, merged)} {
    for (size_t i = 0; i < descent.pairs.size(); ++i) {
      const TensorId& id = descent.pairs[i].id;
      if (id.layer < 0) continue;  // towers keep to themselves
      places_[KeyOf(id)] = i;
      of_role_[id.role].push_back(i);
    }
  }

  Result<Verdict> Judge() {
    std::map<Role, size_t> looks;
    for (const Divergence& d : descent_.divergences) {
      ++tensors_;
      units_ += d.units.size();
      if (looks[descent_.pairs[d.pair].id.role]++ >= kLooksOfRole) continue;
      MIMO_ASSIGN_OR_RETURN(const Explanation match, Explain(d));
      Report(d, match);
    }
    for (Finding& finding : findings_) {
      if (tensors_ > 1)
        finding.evidence += " (in all, " + std::to_string(units_) + " heads or strips of " + std::to_string(tensors_) +
                            " matrices diverge)";
      verdict_.Add(std::move(finding));
    }
    return std::move(verdict_);
  }

 private:
  using Key = std::tuple<Role, bool, int32_t, int32_t>;
  static Key KeyOf(const TensorId& id) { return {id.role, id.mtp, id.layer, id.expert}; }

  // One finding for each cause.
  void Report(const Divergence& d, const Explanation& match) {
    const auto same = [&](const Finding& finding) { return finding.id == match.id; };
    const auto known = std::find_if(findings_.begin(), findings_.end(), same);
    if (known != findings_.end()) {
      known->count += d.units.size();
      return;
    }
    const StrandPair& pair = descent_.pairs[d.pair];
    const FindingKind* kind = FindKind(match.id);
    Finding finding;
    finding.id = match.id;
    finding.severity = Severity::kError;
    finding.place = pair.name + ", " + pair.UnitName(d.units[look_]);
    finding.evidence = "a cosine of " + CosineText(d.cosines[look_]) +
                       " with the same values of the reference, where " + CosineText(kLeastCosine) +
                       " or more is expected";
    if (!match.place.empty()) finding.evidence += ", and of " + CosineText(match.cosine) + " with " + match.place;
    finding.advice = !match.advice.empty() ? match.advice : kind != nullptr ? kind->advice : "";
    finding.count = d.units.size();
    findings_.push_back(std::move(finding));
  }

  Result<Explanation> Explain(const Divergence& d) {
    const StrandPair& pair = descent_.pairs[d.pair];
    look_ = 0;
    MIMO_RETURN_IF_ERROR(TakeSample(pair, d));
    Explanation best;
    if (zero_) {
      best.id = "descent.zero";
      return best;
    }
    if (IsGate(pair.id.role) || IsUp(pair.id.role)) MIMO_RETURN_IF_ERROR(TryOrders(d.pair, &best));
    if (best.cosine < kLeastCosine) MIMO_RETURN_IF_ERROR(TryPlaces(d, &best));
    if (best.cosine >= kLeastCosine) return best;
    best.id = Explanation().id;
    best.advice.clear();
    if (!best.place.empty()) best.place += " at best";
    return best;
  }

  // Values of the run in the units that diverge.
  Status TakeSample(const StrandPair& pair, const Divergence& d) {
    sample_ = SampleOf(pair);
    const size_t taken = std::min(d.units.size(), kUnitsOfLook);
    const auto wanted = [&](int64_t unit) {
      return std::binary_search(d.units.begin(), d.units.begin() + static_cast<ptrdiff_t>(taken), unit);
    };
    if (pair.kind != UnitKind::kHeadColumns)
      std::erase_if(sample_, [&](const SampledRow& piece) { return !wanted(piece.unit); });
    values_.clear();
    zero_ = true;
    MIMO_RETURN_IF_ERROR(run_.Begin(pair.run));
    for (const SampledRow& piece : sample_) {
      std::vector<float>& values = values_.emplace_back(static_cast<size_t>(piece.cols));
      MIMO_RETURN_IF_ERROR(run_.Read(piece.row, piece.col, values));
      zero_ = zero_ && AreZero(pair, std::span(d.units).first(taken), values);
    }
    return {};
  }

  // Of a row of a sample: what it has of the units. All of it, where these are no columns.
  static bool AreZero(const StrandPair& pair, std::span<const int64_t> units, std::span<const float> values) {
    const auto zero = [](std::span<const float> part) {
      return std::all_of(part.begin(), part.end(), [](float value) { return value == 0; });
    };
    if (pair.kind != UnitKind::kHeadColumns) return zero(values);
    const auto width = static_cast<size_t>(pair.unit);
    return std::all_of(units.begin(), units.end(),
                       [&](int64_t unit) { return zero(values.subspan(static_cast<size_t>(unit) * width, width)); });
  }

  void Take(std::string id, std::string place, double cosine, Explanation* best, std::string advice = "") const {
    if (cosine <= best->cosine) return;
    *best = {std::move(id), std::move(place), std::move(advice), cosine};
  }

  // Gate and up exchanged, in turns and in halves: all rows that diverge at once.
  Status TryOrders(size_t index, Explanation* best) {
    const StrandPair& pair = descent_.pairs[index];
    TensorId other_id = pair.id;
    other_id.role = PartnerOf(pair.id.role);
    const auto other = places_.find(KeyOf(other_id));
    if (other == places_.end()) return {};
    const bool up = IsUp(pair.id.role);
    const size_t gate_pair = up ? other->second : index, up_pair = up ? index : other->second;
    MIMO_RETURN_IF_ERROR(readers_[0].Begin(descent_.pairs[gate_pair].reference));
    MIMO_RETURN_IF_ERROR(readers_[1].Begin(descent_.pairs[up_pair].reference));
    const int64_t rows = pair.run.rows;
    const std::string whose = pair.id.expert >= 0 ? " of the same expert" : " of the same layer";
    const auto cosine_of = [&](const auto& place_of) -> Result<double> {
      Likeness likeness;
      std::vector<float> values;
      for (size_t i = 0; i < sample_.size(); ++i) {
        const int64_t row = place_of(sample_[i].row + (up ? rows : 0));
        values.resize(values_[i].size());
        MIMO_RETURN_IF_ERROR(readers_[row < rows ? 0 : 1].Read(row % rows, sample_[i].col, values));
        likeness.Add(values_[i], values);
      }
      return likeness.cosine();
    };
    const GateUpOrder& taken = pair.id.expert >= 0 ? view_.experts_order : view_.dense_order;
    MIMO_ASSIGN_OR_RETURN(const double swapped, cosine_of([&](int64_t row) { return (row + rows) % (2 * rows); }));
    Take("descent.gate_up", std::string(up ? "gate" : "up") + whose, swapped, best);
    if (taken.kind != GateUpOrder::Kind::kPlain) {
      MIMO_ASSIGN_OR_RETURN(const double plain,
                            cosine_of([&](int64_t row) { return StoredGateUpRow(taken, rows, row); }));
      Take("descent.interleaved", "gate and up" + whose + " as they are stored, which are read as " + taken.ToString(),
           plain, best, "pass --source-gate-up plain");
    }
    const std::string prefix = std::string("pass --source-gate-up ") + (pair.id.expert >= 0 ? "experts=" : "dense=");
    for (const auto kind : {GateUpOrder::Kind::kTurns, GateUpOrder::Kind::kHalves}) {
      const bool turns = kind == GateUpOrder::Kind::kTurns;
      for (int64_t number = turns ? 1 : 2; number < rows; number *= 2) {
        const GateUpOrder order{kind, number};
        if (!GateUpFits(order, rows)) break;
        MIMO_ASSIGN_OR_RETURN(const double cosine, cosine_of([&](int64_t row) {
                                return GateUpRow(order, rows, StoredGateUpRow(taken, rows, row));
                              }));
        const std::string place = turns ? "gate and up" + whose + " in turns of " + std::to_string(number) +
                                              " rows, as moe_mlp_glu_interleave_size " + std::to_string(number) +
                                              " of megatron-core has them"
                                        : "gate and up" + whose + " in halves over " + std::to_string(number) +
                                              " ranks, as FSDP2 of megatron-core before 0.19 saves them";
        Take(turns ? "descent.interleaved" : "descent.halves", place, cosine, best, prefix + order.ToString());
      }
    }
    return {};
  }

  struct Candidate {
    size_t pair = 0;
    int64_t unit = 0;
    std::string id, place;
  };

  // Where a unit could have come from: other units of its matrix, other experts, other layers.
  std::vector<Candidate> CandidatesOf(size_t index, int64_t unit) const {
    const StrandPair& pair = descent_.pairs[index];
    std::vector<Candidate> list;
    const bool heads = pair.kind == UnitKind::kHead || pair.kind == UnitKind::kHeadColumns;
    const std::string own = heads ? "descent.heads" : pair.kind == UnitKind::kRow ? "descent.experts" : "descent.rows";
    for (int64_t u = 0; u < pair.units() && list.size() < kMaxCandidates; ++u)
      if (u != unit) list.push_back({index, u, own, pair.UnitName(u) + " of the same matrix"});
    const auto role = of_role_.find(pair.id.role);
    if (role == of_role_.end()) return list;
    for (const size_t i : role->second) {
      const StrandPair& other = descent_.pairs[i];
      if (i == index || other.run.rows != pair.run.rows || other.run.cols != pair.run.cols ||
          list.size() >= kMaxCandidates)
        continue;
      const bool same_layer = other.id.layer == pair.id.layer && other.id.mtp == pair.id.mtp;
      if (same_layer)
        list.push_back(
            {i, unit, "descent.experts", "expert " + std::to_string(other.id.expert) + " of the same layer"});
      else if (other.id.expert == pair.id.expert)
        list.push_back(
            {i, unit, "descent.layers", (other.id.mtp ? "MTP layer " : "layer ") + std::to_string(other.id.layer)});
    }
    return list;
  }

  Status TryPlaces(const Divergence& d, Explanation* best) {
    const StrandPair& pair = descent_.pairs[d.pair];
    // The first that is clearly another, of those that were read.
    const auto end = d.cosines.begin() + static_cast<ptrdiff_t>(std::min(d.units.size(), kUnitsOfLook));
    const auto clear = std::find_if(d.cosines.begin(), end, [](double c) { return c < kLeastCosine / 2; });
    if (clear != end) look_ = static_cast<size_t>(clear - d.cosines.begin());
    const int64_t unit = d.units[look_];
    size_t begun = descent_.pairs.size();
    std::vector<float> values;
    for (Candidate& candidate : CandidatesOf(d.pair, unit)) {
      if (candidate.pair != begun) MIMO_RETURN_IF_ERROR(readers_[0].Begin(descent_.pairs[candidate.pair].reference));
      begun = candidate.pair;
      Likeness likeness;
      const int64_t shift = (candidate.unit - unit) * pair.unit;
      for (size_t i = 0; i < sample_.size(); ++i) {
        const SampledRow& piece = sample_[i];
        if (pair.kind == UnitKind::kHeadColumns) {
          values.resize(static_cast<size_t>(pair.unit));
          MIMO_RETURN_IF_ERROR(readers_[0].Read(piece.row, candidate.unit * pair.unit, values));
          const auto column = static_cast<size_t>(unit * pair.unit);
          likeness.Add(std::span(values_[i]).subspan(column, values.size()), values);
        } else if (piece.unit == unit && piece.row + shift < pair.run.rows) {
          values.resize(values_[i].size());
          MIMO_RETURN_IF_ERROR(readers_[0].Read(piece.row + shift, piece.col, values));
          likeness.Add(values_[i], values);
        }
      }
      if (likeness.run == 0) continue;
      Take(std::move(candidate.id), std::move(candidate.place), likeness.cosine(), best);
    }
    return {};
  }

  const Descent& descent_;
  const View& view_;
  StrandReader run_;
  std::array<StrandReader, 2> readers_;  // of the reference
  std::map<Key, size_t> places_;
  std::map<Role, std::vector<size_t>> of_role_;
  std::vector<SampledRow> sample_;  // of the matrix that is looked at
  std::vector<std::vector<float>> values_;
  bool zero_ = false;
  size_t look_ = 0;  // the unit, of those that diverge, that is spoken of
  size_t tensors_ = 0;
  uint64_t units_ = 0;
  std::vector<Finding> findings_;
  Verdict verdict_;
};

}  // namespace

Result<Verdict> JudgeDescent(FileSystem& fs, const Checkpoint& merged, const Descent& descent) {
  return CauseFinder(fs, merged, descent).Judge();
}

}  // namespace mimo
