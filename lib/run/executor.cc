#include "lib/run/executor.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>

#include "lib/model/file_names.h"
#include "lib/run/claim.h"
#include "lib/run/output_dir.h"
#include "lib/run/output_values.h"
#include "lib/run/publish.h"
#include "lib/run/sources.h"
#include "lib/run/step_runner.h"

namespace mimo {
namespace {

// Whether what a manifest lists is there, of the length it says.
Status CheckFiles(FileSystem& fs, const std::string& output, const Manifest& manifest) {
  for (const auto* list : {&manifest.files, &manifest.other_files}) {
    for (const ManifestFile& file : *list) {
      const std::string path = JoinPath(output, file.name);
      MIMO_ASSIGN_OR_RETURN(const auto info, fs.Stat(path));  // of what a link leads to
      if (info && info->kind == FileKind::kRegular && info->size == file.bytes) continue;
      return UsageError("the output was complete, and was changed since")
          .File(path)
          .Expected(std::to_string(file.bytes) + " bytes")
          .Found(info ? std::to_string(info->size) + " bytes" : "no such file")
          .Advice("put the file back, or make the output again with --overwrite");
    }
  }
  return {};
}

// A complete output has to be all that is asked for now.
Status CheckComplete(FileSystem& fs, const RunOptions& options, const Manifest& manifest) {
  const auto made_without = [&](const char* what) {
    return UsageError(std::string("the complete output was made without ") + what)
        .File(options.output)
        .Advice("make it again with --overwrite, or ask for no more than it was made with");
  };
  if (manifest.anomalies != kernels::Anomalies() && !options.allow_anomalies)
    return UsageError("the complete output holds values that --allow-anomalies let through")
        .File(options.output)
        .Advice("repeat --allow-anomalies, or start again with --overwrite");
  for (const Threshold& asked : options.thresholds)
    if (std::find(manifest.thresholds.begin(), manifest.thresholds.end(), asked) == manifest.thresholds.end())
      return made_without("this --min-sqnr");
  if (options.hash_values != nullptr && !manifest.logical_hashes) return made_without("--hash-values");
  for (const ManifestTensor& tensor : manifest.tensors)
    if (!tensor.hash && options.hash_linked) return made_without("--hash-linked");
  return CheckFiles(fs, options.output, manifest);
}

// OUT is complete, and all that is asked for now: what its manifest says of it.
Status TakeComplete(FileSystem& fs, FileSystem& files, const RunOptions& options, RunReport* report) {
  MIMO_ASSIGN_OR_RETURN(const Manifest manifest, ReadManifest(files, kManifestName));
  MIMO_RETURN_IF_ERROR(CheckComplete(fs, options, manifest));
  report->anomalies = manifest.anomalies;
  report->blocks = manifest.blocks;
  report->rejections = manifest.rejections;
  report->checksums = manifest.checksums;
  if (manifest.logical_hashes) report->values_hashed = manifest.logical_hashes->size();
  report->device = "none";
  return {};
}

class Execution {
 public:
  Execution(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, const RunOptions& options)
      : fs_(fs), catalogue_(catalogue), plan_(plan), options_(options) {}

  Result<RunReport> Run() {
    MIMO_RETURN_IF_ERROR(CheckOutput(fs_, catalogue_.root, options_));
    MIMO_RETURN_IF_ERROR(CheckThresholds(plan_, options_.thresholds));
    units_ = CutUnits(MakeJob(catalogue_, plan_, options_), UnitBytes(options_));
    MIMO_RETURN_IF_ERROR(StepRunner::CheckMemory(units_, options_));
    MIMO_ASSIGN_OR_RETURN(claim_, OutputClaim::Take(fs_, options_));
    partial_.emplace(*claim_);
    Result<RunReport> report = RunClaimed();
    if (report.ok()) {
      MIMO_RETURN_IF_ERROR(CheckPlace());
    } else if (report.error().code == ErrorCode::kIo && !claim_->Confirm().ok()) {
      // What failed may be what another run has done here since.
      if (Status lost = claim_->CheckLease(); !lost.ok()) report = lost.TakeError();
    }
    // An output that was made for nothing goes again.
    Status released = claim_->Release(output_.created_output && !report.ok());
    if (report.ok() && !released.ok()) return released.TakeError();
    return report;
  }

 private:
  Result<RunReport> RunClaimed() {
    MIMO_RETURN_IF_ERROR(CheckContents(claim_->files(), options_));
    output_.created_output = claim_->made();
    report_.part = options_.part.has_value();
    RunResults results;
    StepRunner runner(fs_, catalogue_, plan_, units_, options_, *partial_, results, report_);
    MIMO_ASSIGN_OR_RETURN(output_, ExamineOutput(*partial_, catalogue_, plan_, options_));
    if (output_.state == OutputState::kPublishing || output_.state == OutputState::kComplete) {
      Result<RunReport> complete = Complete();
      const bool lacks = !complete.ok() && complete.error().code == ErrorCode::kUsage;
      if (!lacks || !options_.part || !options_.overwrite) return complete;
      // Not what is asked for: parts that may replace it do, whoever comes first.
      output_.state = OutputState::kFresh;
      output_.overwrite = true;
    }
    MIMO_RETURN_IF_ERROR(Prepare(runner));
    MIMO_RETURN_IF_ERROR(claim_->EndStart());
    OutputValues values(fs_, catalogue_, plan_, options_, *partial_);
    Status made = runner.Make();
    if (options_.part) {
      if (made.ok()) made = CheckAllUnchanged(fs_, catalogue_, plan_);
      if (made.ok()) made = claim_->Confirm();  // records of who is no part any more count for nothing
      if (!made.ok()) return Failed(made.TakeError());
      return report_;
    }
    if (made.ok() && options_.hash_values != nullptr) {
      Step("hashing values");
      made = values.Hash(&results);
    }
    if (made.ok()) made = CheckAllUnchanged(fs_, catalogue_, plan_);
    if (made.ok()) {
      results.thresholds = options_.thresholds;
      results.rejections = Rejections(plan_, results, options_.thresholds);
      if (options_.measure_errors) report_.error_report = ErrorReportJson(plan_, results);
      report_.rejections = results.rejections;
      Step("publishing");
      made = PreparePublication(catalogue_, plan_, output_.overwrite, options_.command, *partial_, results, report_);
    }
    if (!made.ok()) return Failed(made.TakeError());
    for (const TensorResult& tensor : results.tensors) report_.anomalies += tensor.anomalies;
    report_.blocks = TotalCounts(results);
    if (results.logical_hashes) report_.values_hashed = results.logical_hashes->size();
    MIMO_RETURN_IF_ERROR(FinishPublication(plan_, output_.overwrite, *partial_));
    return report_;
  }

  // Up to where units can be made.
  Status Prepare(StepRunner& runner) {
    MIMO_RETURN_IF_ERROR(CheckAllUnchanged(fs_, catalogue_, plan_));
    MIMO_RETURN_IF_ERROR(OutputValues(fs_, catalogue_, plan_, options_, *partial_).Check());
    MIMO_RETURN_IF_ERROR(output_.state == OutputState::kFresh ? Start() : partial_->Repair());
    if (Status prepared = runner.Prepare(); !prepared.ok()) return Failed(prepared.TakeError());
    return {};
  }

  void Step(const char* what) {
    if (options_.progress != nullptr) options_.progress->Step(what);
  }

  Status Start() {
    MIMO_RETURN_IF_ERROR(claim_->Confirm());
    if (options_.part) MIMO_RETURN_IF_ERROR(claim_->CheckAlone());
    return partial_->Start(plan_, {plan_.digest, plan_.tool_version, output_.created_output, output_.overwrite,
                                   SourceStates(catalogue_), options_.command, UnitBytes(options_), AskedOf(options_)});
  }

  // What is complete is of no use where nobody finds it.
  Status CheckPlace() {
    MIMO_ASSIGN_OR_RETURN(const auto held, claim_->files().Stat(""));
    MIMO_ASSIGN_OR_RETURN(const auto there, fs_.Stat(options_.output));
    if (held && there && held->device == there->device && held->inode == there->inode) return {};
    return IoError("the output is complete, but its directory was moved meanwhile")
        .File(options_.output)
        .Advice("look where it was moved to");
  }

  // The tensors are there already: what remains is to move them, which is for no part to do, or nothing.
  Result<RunReport> Complete() {
    if (options_.part && output_.state == OutputState::kPublishing) {
      report_.device = "none";
      return report_;
    }
    if (output_.state == OutputState::kPublishing) {
      Step("publishing");
      MIMO_RETURN_IF_ERROR(claim_->Confirm());
      MIMO_RETURN_IF_ERROR(FinishPublication(plan_, output_.overwrite, *partial_));
    } else if (!options_.part) {
      MIMO_RETURN_IF_ERROR(partial_->Remove());
    }
    MIMO_RETURN_IF_ERROR(TakeComplete(fs_, claim_->files(), options_, &report_));
    report_.groups_resumed = plan_.file_groups;
    return report_;
  }

  // After bad input nothing is worth keeping, unless the input has changed meanwhile: then what was made before is, for
  // when it is put back; nor what other parts have a share in. Failures of the removal would only hide what went wrong.
  Error Failed(Error error) {
    if (error.code == ErrorCode::kInterrupted) return error;
    if (Status changed = CheckAllUnchanged(fs_, catalogue_, plan_); !changed.ok()) return changed.TakeError();
    if (error.code != ErrorCode::kBadInput && error.code != ErrorCode::kCheckFailed) return error;
    if (options_.part || options_.join) return error;
    if (claim_->Confirm().ok()) {
      const Status ignored = partial_->Remove();
    }
    return error;
  }

  FileSystem& fs_;
  const Catalogue& catalogue_;
  const Plan& plan_;
  const RunOptions& options_;
  Units units_;
  std::unique_ptr<OutputClaim> claim_;
  std::optional<PartialDirectory> partial_;
  OutputInfo output_;
  RunReport report_;
};

}  // namespace

Result<std::vector<std::string>> CommandOfParts(FileSystem& fs, const std::string& output) {
  std::vector<std::string> command;
  MIMO_ASSIGN_OR_RETURN(const auto info, fs.Stat(output));
  if (!info || info->kind != FileKind::kDirectory) return command;
  MIMO_ASSIGN_OR_RETURN(const auto files, fs.Beneath(output));
  const std::string path = JoinPath(output, kPartialDirectory);
  MIMO_ASSIGN_OR_RETURN(auto state, PartialDirectory::ReadState(*files, path));
  if (state) return std::move(state->command);
  MIMO_ASSIGN_OR_RETURN(auto publication, PartialDirectory::ReadPublication(*files, path));
  return publication ? std::move(publication->command) : command;
}

Result<RunReport> CompleteBefore(FileSystem& fs, const RunOptions& options) {
  RunReport report;
  MIMO_ASSIGN_OR_RETURN(const auto files, fs.Beneath(options.output));
  MIMO_RETURN_IF_ERROR(TakeComplete(fs, *files, options, &report));
  MIMO_ASSIGN_OR_RETURN(const auto there, files->Stat(kPartialDirectory));
  if (!there) return report;
  RunOptions remover;
  remover.output = options.output;
  MIMO_ASSIGN_OR_RETURN(const auto claim, OutputClaim::Take(fs, remover));
  PartialDirectory partial(*claim);
  MIMO_ASSIGN_OR_RETURN(const auto names, claim->files().List(kPartialDirectory));
  if (std::all_of(names.begin(), names.end(), IsOfLeases)) MIMO_RETURN_IF_ERROR(partial.Remove());
  MIMO_RETURN_IF_ERROR(claim->Release(false));
  return report;
}

Result<RunReport> RunPlan(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, const RunOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  auto report = Execution(fs, catalogue, plan, options).Run();
  if (report.ok()) {
    report->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  return report;
}

}  // namespace mimo
