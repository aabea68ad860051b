#include "lib/verify/compare/roundtrip.h"

#include "lib/planner/planner.h"
#include "lib/run/memory_budget.h"
#include "lib/run/planned_files.h"

namespace mimo {
namespace {

// Where a plan does not round, values are what they were.
void CheckExactness(const CompareReport& report, const char* way, std::vector<std::string>* violations) {
  for (const TensorComparison& tensor : report.tensors)
    if (tensor.equality > Equality::kValues) {
      violations->push_back(std::string(way) + " " + tensor.name + " is " +
                            std::string(WordOf(kEqualities, tensor.equality)) + ", and the plan is lossless");
      return;
    }
}

}  // namespace

Result<RoundtripReport> Roundtrip(FileSystem& fs, const std::string& root, const PlanOptions& plan_options,
                                  const CompareOptions& options) {
  if (!plan_options.ranks.empty() || !plan_options.include.empty() || !plan_options.exclude.empty())
    return UsageError("a round trip is of a whole checkpoint")
        .Expected("no --ranks, --include or --exclude")
        .Found("one of them");
  CompareOptions near = options;
  near.within_codec = true;
  const uint64_t memory = options.memory_bytes > 0 ? options.memory_bytes : DefaultMemoryBytes();
  near.memory_bytes = memory / 2;
  OpenOptions source{.source_qkv = plan_options.source_qkv, .allow_anomalies = true};
  MIMO_ASSIGN_OR_RETURN(const auto original, LogicalCheckpoint::Open(fs, root, source));

  RoundtripReport report;
  const Checkpoint& checkpoint = original->stored();
  MIMO_ASSIGN_OR_RETURN(const Plan plan, MakePlan(checkpoint, plan_options));
  report.lossless = plan.lossless;
  const std::string there = root + " (as planned)";
  PlannedFiles made(fs, checkpoint.stored, plan, there, memory / 4);
  MIMO_ASSIGN_OR_RETURN(const auto planned, LogicalCheckpoint::Open(made, there, {.allow_anomalies = true}));
  MIMO_ASSIGN_OR_RETURN(report.there, Compare(fs, *original, *planned, near));
  if (plan.lossless) CheckExactness(report.there, "there:", &report.violations);

  const Checkpoint& shown = planned->stored();
  PlanOptions way_back;
  way_back.qkv = QkvWish("restore");
  way_back.unknown = UnknownPolicy::kCarry;
  const Result<Plan> back = MakePlan(shown, way_back);
  // What holds attention_value_scale in its weights cannot be restored; what was said above is all there is.
  if (back.ok()) {
    const std::string again = root + " (there and back)";
    PlannedFiles restored(made, shown.stored, back.value(), again, memory / 4);
    MIMO_ASSIGN_OR_RETURN(const auto returned, LogicalCheckpoint::Open(restored, again, {.allow_anomalies = true}));
    // Each way rounds by half a step of its own: what came back is held against what it was made from.
    const bool exact = plan.lossless && back.value().lossless;
    MIMO_ASSIGN_OR_RETURN(report.back, Compare(fs, exact ? *original : *planned, *returned, near));
    if (exact) CheckExactness(*report.back, "back:", &report.violations);
  } else if (back.error().code != ErrorCode::kUsage) {
    return back.error();
  } else {
    report.there.notes.push_back("no way back: " + back.error().Message());
  }
  report.anomalies = made.anomalies();
  return report;
}

}  // namespace mimo
