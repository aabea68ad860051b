#include "lib/verify/compare/explain.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <set>
#include <tuple>

#include "lib/base/checked.h"
#include "lib/verify/compare/cells.h"
#include "lib/verify/compare/moved_rows.h"
#include "lib/verify/compare/vectors.h"

namespace mimo {
namespace {

class Explainer {
 public:
  Explainer(const LogicalCheckpoint& a, const LogicalCheckpoint& b, const std::vector<TensorPair>& pairs,
            CompareReport* report)
      : a_(a), b_(b), pairs_(pairs), moved_(a, b), report_(*report) {}

  Status Tensor(size_t t) {
    const TensorComparison& tensor = report_.tensors[t];
    const TensorPair& pair = pairs_[t];
    if (!pair.a->rows.has_values()) return Say(t, "bytes.differ", "no values to be decoded");
    if (tensor.equality == Equality::kRounded)
      return Say(t, "values.f32-bits-lost", tensor.stored_a + " against " + tensor.stored_b + ", equal once rounded");
    if (tensor.equality == Equality::kWithin)
      return Say(
          t, "values.within-codec",
          tensor.stored_a + " against " + tensor.stored_b + ", all within half a step: --within-codec takes this");
    if (pair.a->rows.rows() == 1) {
      MIMO_ASSIGN_OR_RETURN(const PlaceFinding finding, CompareVectors(a_, *pair.a, b_, *pair.b));
      return Say(t, finding.kind, finding.evidence);
    }
    return Matrix(t);
  }

 private:
  Status Say(size_t t, std::string kind, std::string evidence) {
    report_.differences.push_back({std::move(kind), report_.tensors[t].name, std::move(evidence), t});
    return {};
  }

  Status Matrix(size_t t) {
    const TensorComparison& tensor = report_.tensors[t];
    const TensorPair& pair = pairs_[t];
    if (tensor.measured && tensor.figures.differing <= 2) return Say(t, "values.single", OneElement(tensor));
    MIMO_ASSIGN_OR_RETURN(const CellMap map, MapCells(a_, *pair.a, b_, *pair.b));
    const uint64_t same = map.CountOf(CellKind::kSame), multiples = map.CountOf(CellKind::kMultiple),
                   others = map.CountOf(CellKind::kOther), told = same + multiples + others;
    // Rows that are found elsewhere explain what is no multiple.
    if (others * 5 > multiples && others > 0) {
      MIMO_ASSIGN_OR_RETURN(const PlaceFinding finding, moved_.Find(pair, map));
      if (!finding.kind.empty()) return Say(t, finding.kind, finding.evidence);
    }
    if (multiples > 0) {
      PlaceFinding finding = FindFactor(map);
      if (finding.kind.empty()) {
        MIMO_ASSIGN_OR_RETURN(finding, ScalesOf(pair, map));
      }
      if (finding.kind == "values.scaled") NameFactor(tensor, &finding);
      if (!finding.kind.empty()) return Say(t, finding.kind, finding.evidence);
    }
    const std::string cells =
        std::to_string(others + multiples) + " of " + std::to_string(told) + " cells of 128 columns";
    if (others + multiples == 0) return Say(t, "values.noise", "near everywhere, and not the same");
    if ((others + multiples) * 5 <= told) return Say(t, "values.damaged", cells + " hold something else");
    return Say(t, "values.other", cells + " hold something else, found nowhere near");
  }

  static std::string OneElement(const TensorComparison& tensor) {
    return std::to_string(tensor.figures.differing) + " element" + (tensor.figures.differing == 1 ? "" : "s") +
           ", the first at [" + std::to_string(tensor.figures.first_row) + ", " +
           std::to_string(tensor.figures.first_col) + "]";
  }

  static bool HasScales(const LogicalTensor& tensor) { return tensor.rows.stored_as() == Codec::kFp8Block; }

  Result<PlaceFinding> ScalesOf(const TensorPair& pair, const CellMap& map) {
    std::vector<float> multipliers;
    const bool of_a = HasScales(*pair.a), of_b = HasScales(*pair.b);
    if (of_a)
      MIMO_RETURN_IF_ERROR(ReadMultipliers(a_, *pair.a, kCellColumns / 2, kCellColumns, &multipliers));
    else if (of_b)
      MIMO_RETURN_IF_ERROR(ReadMultipliers(b_, *pair.b, kCellColumns / 2, kCellColumns, &multipliers));
    return FindScales(map, multipliers, of_a || !of_b);
  }

  // A factor that is attention_value_scale, or made of it.
  void NameFactor(const TensorComparison& tensor, PlaceFinding* finding) const {
    const auto scale = a_.checkpoint().catalogue().config.value_scale;
    const Role role = tensor.id.role;
    if (!scale || *scale == 1 || *scale <= 0 || (role != Role::kAttnV && role != Role::kAttnO)) return;
    const auto is = [&](double factor) { return std::abs(finding->factor / factor - 1) <= 0.01; };
    if (is(*scale))
      finding->kind = "value-scale.folded";
    else if (is(*scale * *scale))
      finding->kind = "value-scale.twice";
    else if (is(1 / *scale))
      finding->kind = "value-scale.taken-out";
  }

  const LogicalCheckpoint& a_;
  const LogicalCheckpoint& b_;
  const std::vector<TensorPair>& pairs_;
  MovedRows moved_;
  CompareReport& report_;
};

// At most `most` of them, of every kind of tensor some.
std::vector<size_t> Chosen(const CompareReport& report, const std::vector<size_t>& differing, size_t most) {
  if (differing.size() <= most) return differing;
  std::map<std::pair<bool, Role>, std::vector<size_t>> kinds;
  for (const size_t t : differing) kinds[{report.tensors[t].id.mtp, report.tensors[t].id.role}].push_back(t);
  std::vector<size_t> chosen;
  for (size_t round = 0; chosen.size() < most; ++round)
    for (const auto& [kind, tensors] : kinds)
      if (round < tensors.size() && chosen.size() < most) chosen.push_back(tensors[round]);
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

}  // namespace

Status Explain(const LogicalCheckpoint& a, const LogicalCheckpoint& b, const std::vector<TensorPair>& pairs,
               const CompareOptions& options, CompareReport* report) {
  std::vector<size_t> differing;
  for (size_t t = 0; t < report->tensors.size(); ++t)
    if (!report->tensors[t].accepted) differing.push_back(t);
  const std::vector<size_t> chosen = Chosen(*report, differing, options.explained);
  const std::set<size_t> looked_at(chosen.begin(), chosen.end());
  Explainer explainer(a, b, pairs, report);
  for (const size_t t : differing) {
    if (looked_at.contains(t)) {
      MIMO_RETURN_IF_ERROR(explainer.Tensor(t));
    } else {
      report->differences.push_back({"values.unexplained", report->tensors[t].name, "not looked at again", t});
    }
  }
  return {};
}

}  // namespace mimo
