#include "lib/run/executor.h"

#include <chrono>

#include "lib/run/output_dir.h"
#include "lib/run/publish.h"
#include "lib/run/replicas.h"
#include "lib/run/step_runner.h"

namespace mimo {
namespace {

class Execution {
 public:
  Execution(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, const RunOptions& options)
      : fs_(fs), catalogue_(catalogue), plan_(plan), options_(options), partial_(fs, options.output) {}

  Result<RunReport> Run() {
    MIMO_RETURN_IF_ERROR(CheckOutput(fs_, catalogue_.root, options_));
    MIMO_RETURN_IF_ERROR(CheckThresholds(plan_, options_.thresholds));
    MIMO_RETURN_IF_ERROR(StepRunner::CheckMemory(catalogue_, plan_, options_));
    MIMO_ASSIGN_OR_RETURN(output_, ExamineOutput(fs_, plan_, options_));
    if (output_.state == OutputState::kPublishing || output_.state == OutputState::kComplete) return Complete();
    if (output_.state == OutputState::kFresh) MIMO_RETURN_IF_ERROR(Start());
    RunResults results;
    Status made = CompareReplicas(fs_, catalogue_, plan_, options_, report_);
    if (made.ok()) made = StepRunner(fs_, catalogue_, plan_, options_, partial_).Run(results, report_);
    if (made.ok()) {
      results.thresholds = options_.thresholds;
      results.rejections = Rejections(plan_, results, options_.thresholds);
      if (options_.measure_errors) report_.error_report = ErrorReportJson(plan_, results);
      report_.rejections = results.rejections;
      Step("publishing");
      made = PreparePublication(fs_, catalogue_, plan_, output_.overwrite, partial_, results, report_);
    }
    if (!made.ok()) {
      if (made.error().code == ErrorCode::kBadInput || made.error().code == ErrorCode::kCheckFailed) CleanUp();
      return made.TakeError();
    }
    for (const TensorResult& tensor : results.tensors) report_.anomalies += tensor.anomalies;
    report_.blocks = TotalCounts(results);
    MIMO_RETURN_IF_ERROR(FinishPublication(fs_, options_.output, partial_));
    return report_;
  }

 private:
  void Step(const char* what) {
    if (options_.progress != nullptr) options_.progress->Step(what);
  }

  Status Start() {
    MIMO_RETURN_IF_ERROR(fs_.CreateDirectories(options_.output));
    MIMO_RETURN_IF_ERROR(
        partial_.Start(plan_, {plan_.digest, plan_.tool_version, output_.created_output, output_.overwrite}));
    return output_.created_output ? fs_.SyncDirectory(ParentOf(options_.output)) : Status();
  }

  // The tensors are there already: what remains is to move them, or nothing.
  Result<RunReport> Complete() {
    if (output_.state == OutputState::kPublishing) {
      Step("publishing");
      MIMO_RETURN_IF_ERROR(FinishPublication(fs_, options_.output, partial_));
    } else {
      MIMO_RETURN_IF_ERROR(partial_.Remove());
    }
    MIMO_ASSIGN_OR_RETURN(const Manifest manifest, ReadManifest(fs_, JoinPath(options_.output, kManifestName)));
    report_.groups_resumed = plan_.file_groups;
    report_.anomalies = manifest.anomalies;
    report_.blocks = manifest.blocks;
    report_.rejections = manifest.rejections;
    report_.device = "none";
    return report_;
  }

  // After bad input nothing is worth keeping. Failures here would only hide what went wrong.
  void CleanUp() {
    Status ignored = partial_.Remove();
    if (ignored.ok() && output_.created_output) ignored = fs_.Remove(options_.output);
  }

  FileSystem& fs_;
  const Catalogue& catalogue_;
  const Plan& plan_;
  const RunOptions& options_;
  PartialDirectory partial_;
  OutputInfo output_;
  RunReport report_;
};

}  // namespace

Result<RunReport> RunPlan(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, const RunOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  auto report = Execution(fs, catalogue, plan, options).Run();
  if (report.ok()) {
    report->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  return report;
}

}  // namespace mimo
