// How far encoded weights are from their source: figures per tensor, by role and by layer, and thresholds on them
// (reference quantization-formats.md 7; docs/numerics.md).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kernels/encode.h"
#include "lib/base/status.h"
#include "lib/plan/plan.h"

namespace mimo {

// Derived from kernels::ErrorSums. x is the decoded source, y the decoded output.
double SqnrDb(const kernels::ErrorSums& sums);          // 20 log10(|x| / |x - y|); +infinity when exact
double RelativeRms(const kernels::ErrorSums& sums);     // |x - y| / |x|; 0 when exact
double MaxErrorByAmax(const kernels::ErrorSums& sums);  // max |x - y| / max |x|; 0 when exact
double Cosine(const kernels::ErrorSums& sums);          // <x, y> / (|x| |y|); 1 when exact

// "every tensor of this role has at least this SQNR"
struct Threshold {
  std::string role;  // a role ("expert.down"), or experts, attention, dense, mtp, all
  double min_sqnr_db = 0;
  bool operator==(const Threshold&) const = default;
};

// "ROLE=dB". kUsage for anything else.
Result<Threshold> ParseThreshold(const std::string& text);
// Whether a tensor is meant by Threshold::role.
bool InRole(const TensorId& id, std::string_view role);
// kUsage when a threshold speaks of no encoded weight of the plan.
Status CheckThresholds(const Plan& plan, const std::vector<Threshold>& thresholds);

struct RunResults;
// One line per tensor that fails, in plan order.
std::vector<std::string> Rejections(const Plan& plan, const RunResults& results,
                                    const std::vector<Threshold>& thresholds);

// The report as JSON (schemas/report.schema.json): per tensor, and aggregated by role and by layer.
std::string ErrorReportJson(const Plan& plan, const RunResults& results);

}  // namespace mimo
