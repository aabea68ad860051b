#include "lib/run/executor.h"

#include <chrono>
#include <memory>
#include <optional>

#include "lib/run/claim.h"
#include "lib/run/output_dir.h"
#include "lib/run/publish.h"
#include "lib/run/replicas.h"
#include "lib/run/sources.h"
#include "lib/run/step_runner.h"

namespace mimo {
namespace {

class Execution {
 public:
  Execution(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, const RunOptions& options)
      : fs_(fs), catalogue_(catalogue), plan_(plan), options_(options) {}

  Result<RunReport> Run() {
    MIMO_RETURN_IF_ERROR(CheckOutput(fs_, catalogue_.root, options_));
    MIMO_RETURN_IF_ERROR(CheckThresholds(plan_, options_.thresholds));
    MIMO_RETURN_IF_ERROR(StepRunner::CheckMemory(catalogue_, plan_, options_));
    MIMO_ASSIGN_OR_RETURN(claim_, OutputClaim::Take(fs_, options_));
    partial_.emplace(*claim_);
    Result<RunReport> report = RunClaimed();
    // An output that was made for nothing goes again.
    Status released = claim_->Release(output_.created_output && !report.ok());
    if (report.ok() && !released.ok()) return released.TakeError();
    return report;
  }

 private:
  Result<RunReport> RunClaimed() {
    MIMO_RETURN_IF_ERROR(CheckContents(claim_->files(), options_));
    output_.created_output = claim_->made();
    MIMO_ASSIGN_OR_RETURN(output_, ExamineOutput(*partial_, catalogue_, plan_, options_));
    if (output_.state == OutputState::kPublishing || output_.state == OutputState::kComplete) return Complete();
    MIMO_RETURN_IF_ERROR(CheckAllUnchanged(fs_, catalogue_, plan_));
    if (output_.state == OutputState::kFresh) MIMO_RETURN_IF_ERROR(Start());
    RunResults results;
    Status made = CompareReplicas(fs_, catalogue_, plan_, options_, *claim_, report_);
    if (made.ok()) made = StepRunner(fs_, catalogue_, plan_, options_, *partial_).Run(results, report_);
    if (made.ok()) made = CheckAllUnchanged(fs_, catalogue_, plan_);
    if (made.ok()) {
      results.thresholds = options_.thresholds;
      results.rejections = Rejections(plan_, results, options_.thresholds);
      if (options_.measure_errors) report_.error_report = ErrorReportJson(plan_, results);
      report_.rejections = results.rejections;
      Step("publishing");
      made = PreparePublication(catalogue_, plan_, output_.overwrite, *partial_, results, report_);
    }
    if (!made.ok()) return Failed(made.TakeError());
    for (const TensorResult& tensor : results.tensors) report_.anomalies += tensor.anomalies;
    report_.blocks = TotalCounts(results);
    MIMO_RETURN_IF_ERROR(FinishPublication(*partial_));
    return report_;
  }

  void Step(const char* what) {
    if (options_.progress != nullptr) options_.progress->Step(what);
  }

  Status Start() {
    MIMO_RETURN_IF_ERROR(claim_->Confirm());
    return partial_->Start(
        plan_, {plan_.digest, plan_.tool_version, output_.created_output, output_.overwrite, SourceStates(catalogue_)});
  }

  // The tensors are there already: what remains is to move them, or nothing.
  Result<RunReport> Complete() {
    if (output_.state == OutputState::kPublishing) {
      Step("publishing");
      MIMO_RETURN_IF_ERROR(claim_->Confirm());
      MIMO_RETURN_IF_ERROR(FinishPublication(*partial_));
    } else {
      MIMO_RETURN_IF_ERROR(partial_->Remove());
    }
    MIMO_ASSIGN_OR_RETURN(const Manifest manifest, ReadManifest(claim_->files(), kManifestName));
    report_.groups_resumed = plan_.file_groups;
    report_.anomalies = manifest.anomalies;
    report_.blocks = manifest.blocks;
    report_.rejections = manifest.rejections;
    report_.checksums = manifest.checksums;
    report_.device = "none";
    return report_;
  }

  // After bad input nothing is worth keeping, unless the input has changed meanwhile: then what was made before is, for
  // when it is put back. Failures of the removal would only hide what went wrong.
  Error Failed(Error error) {
    if (error.code != ErrorCode::kBadInput && error.code != ErrorCode::kCheckFailed) return error;
    if (Status changed = CheckAllUnchanged(fs_, catalogue_, plan_); !changed.ok()) return changed.TakeError();
    if (claim_->Confirm().ok()) {
      const Status ignored = partial_->Remove();
    }
    return error;
  }

  FileSystem& fs_;
  const Catalogue& catalogue_;
  const Plan& plan_;
  const RunOptions& options_;
  std::unique_ptr<OutputClaim> claim_;
  std::optional<PartialDirectory> partial_;
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
