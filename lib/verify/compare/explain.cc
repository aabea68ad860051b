#include "lib/verify/compare/explain.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <tuple>

#include "lib/verify/compare/cells.h"
#include "lib/verify/compare/counterparts.h"
#include "lib/verify/compare/elements.h"
#include "lib/verify/compare/fused_replicas.h"
#include "lib/verify/compare/moved_columns.h"
#include "lib/verify/compare/moved_heads.h"
#include "lib/verify/compare/moved_rows.h"
#include "lib/verify/compare/scales.h"
#include "lib/verify/compare/share_out.h"
#include "lib/verify/compare/vectors.h"

namespace mimo {
namespace {

// Of one worker: what it keeps is no part of what it finds.
class Explainer {
 public:
  Explainer(const LogicalCheckpoint& a, const LogicalCheckpoint& b) : a_(a), b_(b), moved_(a, b) {}

  Result<PlaceFinding> Tensor(const TensorComparison& tensor, const TensorPair& pair) {
    if (!pair.a->rows.has_values()) return PlaceFinding{"bytes.differ", "no values to be decoded", 0};
    const std::string codecs = tensor.stored_a + " against " + tensor.stored_b;
    if (tensor.equality == Equality::kRounded)
      return PlaceFinding{"values.f32-bits-lost", codecs + ", equal once rounded", 0};
    if (tensor.equality == Equality::kWithin) {
      // What is exactly another way of rounding has its name; all else is what rounding may make of it.
      MIMO_ASSIGN_OR_RETURN(PlaceFinding cut, FindElementwise(a_, b_, pair));
      if (cut.kind == "values.truncated") return cut;
      return PlaceFinding{"values.within-codec", codecs + ", all within half a step: --within-codec takes this", 0};
    }
    return pair.a->rows.rows() == 1 ? Vector(pair) : Matrix(tensor, pair);
  }

 private:
  Result<PlaceFinding> Vector(const TensorPair& pair) {
    std::vector<float> x, y;
    MIMO_RETURN_IF_ERROR(ReadVectors(a_, *pair.a, b_, *pair.b, &x, &y));
    PlaceFinding finding = FindVectorRule(x, y);
    if (finding.kind.empty())
      finding = FindVectorHeads(x, y, HeadSize(a_.checkpoint().catalogue().config, pair.a->rows.array().id));
    if (finding.kind.empty()) {
      MIMO_ASSIGN_OR_RETURN(finding, FindCounterpart(a_, b_, pair));
    }
    return finding.kind.empty() ? FindVectorOrder(x, y) : finding;
  }

  // From what explains the most exactly to what is left.
  Result<PlaceFinding> Matrix(const TensorComparison& tensor, const TensorPair& pair) {
    MIMO_ASSIGN_OR_RETURN(PlaceFinding finding, FindElementwise(a_, b_, pair));
    if (!finding.kind.empty()) return finding;
    if (tensor.figures.non_finite > 0)
      return PlaceFinding{"values.non-finite",
                          std::to_string(tensor.figures.non_finite) + " elements are numbers in one side alone", 0};
    MIMO_ASSIGN_OR_RETURN(const CellMap map, MapCells(a_, *pair.a, b_, *pair.b));
    MIMO_ASSIGN_OR_RETURN(finding, Multiples(tensor, pair, map));
    if (!finding.kind.empty()) return finding;
    const uint64_t told = map.told(), multiples = map.CountOf(CellKind::kMultiple),
                   others = map.CountOf(CellKind::kOther);
    const std::string cells =
        std::to_string(others + multiples) + " of " + std::to_string(told) + " cells of 128 columns";
    // Noise beyond half a step, in more than the cells that hold something else.
    const bool noise = IsNoisy(map) && (others + multiples) * 20 <= told &&
                       tensor.figures.beyond > (others + multiples) * static_cast<uint64_t>(2 * kCellColumns);
    if (others + multiples == 0 || noise)
      return PlaceFinding{"values.noise", "near nearly everywhere, and not the same", 0};
    MIMO_ASSIGN_OR_RETURN(finding, Moved(pair, map));
    if (!finding.kind.empty()) return finding;
    if ((others + multiples) * 5 <= told) return PlaceFinding{"values.damaged", cells + " hold something else", 0};
    return PlaceFinding{"values.other", cells + " hold something else, found nowhere near", 0};
  }

  // Values in their places, times something.
  Result<PlaceFinding> Multiples(const TensorComparison& tensor, const TensorPair& pair, const CellMap& map) {
    PlaceFinding finding = FindFactor(map);
    if (finding.kind == "values.scaled") {
      MIMO_RETURN_IF_ERROR(NameFactor(tensor, pair, &finding));
    }
    if (!finding.kind.empty()) return finding;
    MIMO_ASSIGN_OR_RETURN(const ScaleMap scales, MapScales(a_, b_, pair));
    std::vector<ScaleRows> beside;
    for (const LogicalTensor* other : NeighboursOf(a_, *pair.a)) {
      MIMO_ASSIGN_OR_RETURN(ScaleRows rows, ReadScaleRows(a_, *other, scales));
      beside.push_back(std::move(rows));
    }
    PlaceFinding of_scales = FindScales(scales, beside);
    if (!of_scales.kind.empty() && of_scales.kind != "scale.blocks") return of_scales;
    if (PlaceFinding of_rows = FindRowFactors(map); !of_rows.kind.empty()) return of_rows;
    MIMO_ASSIGN_OR_RETURN(finding, FindColumnFactors(a_, b_, pair));
    return finding.kind.empty() ? of_scales : finding;
  }

  // Values in other places.
  Result<PlaceFinding> Moved(const TensorPair& pair, const CellMap& map) {
    MIMO_ASSIGN_OR_RETURN(PlaceFinding finding, moved_.Find(pair, map));
    if (!finding.kind.empty()) return finding;
    if (!IsDamageAlone(map)) {
      MIMO_ASSIGN_OR_RETURN(finding, FindCounterpart(a_, b_, pair));
      if (!finding.kind.empty()) return finding;
    }
    const TensorId& id = pair.a->rows.array().id;
    const ModelConfig& config = a_.checkpoint().catalogue().config;
    return FindColumns(a_, b_, pair, id.role == Role::kAttnO ? config.attention_of(id.layer, id.mtp).v_head_dim : 0);
  }

  // So little that it is no other tensor.
  static bool IsDamageAlone(const CellMap& map) {
    return (map.CountOf(CellKind::kOther) + map.CountOf(CellKind::kMultiple)) * 20 <= map.told();
  }

  // A factor that is attention_value_scale, or made of it; or that of a global scale.
  Status NameFactor(const TensorComparison& tensor, const TensorPair& pair, PlaceFinding* finding) const {
    const auto scale = a_.checkpoint().catalogue().config.value_scale;
    const Role role = tensor.id.role;
    if (scale && *scale != 1 && *scale > 0 && (role == Role::kAttnV || role == Role::kAttnO)) {
      const auto is = [&](double factor) { return std::abs(finding->factor / factor - 1) <= 0.01; };
      if (is(*scale))
        finding->kind = "value-scale.folded";
      else if (is(*scale * *scale))
        finding->kind = "value-scale.twice";
      else if (is(1 / *scale))
        finding->kind = "value-scale.taken-out";
    }
    if (pair.a->rows.stored_as() != Codec::kNvfp4) return {};
    std::vector<float> multipliers;
    MIMO_RETURN_IF_ERROR(ReadMultipliers(a_, *pair.a, 1, 16, &multipliers));
    if (PlaceFinding global = FindGlobalScale(multipliers, finding->factor); !global.kind.empty())
      *finding = std::move(global);
    return {};
  }

  const LogicalCheckpoint& a_;
  const LogicalCheckpoint& b_;
  MovedRows moved_;
};

// Tensors one after the other of one layer, and of one expert where they have one: they are each other's neighbours,
// which are looked through for rows.
std::vector<std::vector<size_t>> Together(const CompareReport& report, const std::vector<size_t>& tensors) {
  std::vector<std::vector<size_t>> together;
  const auto owner = [&](size_t t) {
    const TensorId& id = report.tensors[t].id;
    return std::tuple(id.mtp, id.layer, id.expert);
  };
  for (const size_t t : tensors) {
    if (together.empty() || owner(together.back().back()) != owner(t)) together.emplace_back();
    together.back().push_back(t);
  }
  return together;
}

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
  for (const LogicalCheckpoint* side : {&a, &b})
    MIMO_RETURN_IF_ERROR(CompareFusedReplicas(*side, options, &report->differences));
  std::vector<size_t> differing;
  for (size_t t = 0; t < report->tensors.size(); ++t)
    if (!report->tensors[t].accepted) differing.push_back(t);
  const std::vector<std::vector<size_t>> shares = Together(*report, Chosen(*report, differing, options.explained));
  std::vector<std::optional<PlaceFinding>> findings(report->tensors.size());
  std::vector<Explainer> explainers(static_cast<size_t>(WorkersOfSecondLook(options)), Explainer(a, b));
  MIMO_RETURN_IF_ERROR(ShareOut(options, shares.size(), [&](int worker, size_t share) -> Status {
    for (const size_t t : shares[share]) {
      MIMO_ASSIGN_OR_RETURN(findings[t], explainers[static_cast<size_t>(worker)].Tensor(report->tensors[t], pairs[t]));
    }
    return {};
  }));
  for (const size_t t : differing) {
    PlaceFinding finding = findings[t].value_or(PlaceFinding{"values.unexplained", "not looked at again", 0});
    report->differences.push_back({std::move(finding.kind), report->tensors[t].name, std::move(finding.evidence), t});
  }
  return {};
}

}  // namespace mimo
