// mimo-verify check DIR: whether a checkpoint is what its config.json declares and its manifest, where there is one,
// says.
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "lib/base/checked.h"
#include "lib/verify/check.h"
#include "lib/verify/judge_directory.h"
#include "lib/verify/logical/logical_hash.h"
#include "tools/cli.h"
#include "tools/finding_report.h"
#include "tools/print.h"
#include "tools/verify_command.h"

namespace mimo {
namespace {

constexpr size_t kShownDifferences = 20;
constexpr char kCheckExamples[] =
    "Examples:\n"
    "  mimo-verify check CKPT-BF16               before deployment, after a copy\n"
    "  mimo-verify check OUT --json --quiet      in CI\n"
    "  mimo-verify check DOWNLOAD                any checkpoint: structure, declarations, small values\n"
    "  mimo-verify check OUT --against HASHES    the model that mimo-verify manifest was asked about?\n"
    "Exit codes: 0 all holds, 1 differences, 2 usage, 3 no checkpoint, or an incomplete output, 4 I/O.";

struct CheckArguments {
  cli::CommonOptions& common;
  std::string directory = {};
  std::string against = {};  // a manifest of logical hashes
  std::optional<QkvWish> source_qkv = {};
  CheckOptions options = {};
};

// The values of the directory, hashed once for whoever asks.
class Values {
 public:
  explicit Values(const CheckArguments& a) : a_(a) {}

  // Against the hashes that somebody took of a model. Nothing where none are named.
  Result<std::optional<Recognition>> Against() {
    if (a_.against.empty()) return std::optional<Recognition>();
    MIMO_ASSIGN_OR_RETURN(const std::vector<LogicalHash> expected, ReadLogicalManifest(PosixFileSystem(), a_.against));
    MIMO_RETURN_IF_ERROR(Hash());
    return std::optional(Recognise(expected, *hashes_, opened_->traits(), opened_->checkpoint().stored.table));
  }

  // Against those of the directory's own manifest, where it holds some and all else is as it says.
  Status AddDifferences(CheckReport* report) {
    if (!report->logical_hashes || !report->differences.empty()) return {};
    MIMO_RETURN_IF_ERROR(Hash());
    report->differences = CompareRecorded(*report->logical_hashes, *hashes_);
    return {};
  }

 private:
  Status Hash() {
    if (hashes_) return {};
    OpenOptions open;
    open.source_qkv = a_.source_qkv;
    open.allow_anomalies = true;
    MIMO_ASSIGN_OR_RETURN(opened_, LogicalCheckpoint::Open(PosixFileSystem(), a_.directory, open));
    LogicalHashOptions options;
    options.threads = a_.options.threads;
    options.progress = a_.options.progress;
    MIMO_ASSIGN_OR_RETURN(hashes_, HashLogical(*opened_, options));
    return {};
  }

  const CheckArguments& a_;
  std::unique_ptr<LogicalCheckpoint> opened_;
  std::optional<std::vector<LogicalHash>> hashes_;
};

nlohmann::ordered_json RecognitionJson(const Recognition& recognition) {
  nlohmann::ordered_json strangers = nlohmann::ordered_json::array();
  for (const Recognition::Stranger& s : recognition.strangers)
    strangers.push_back({{"tensor", s.tensor}, {"what", s.what}});
  return {{"equal", recognition.equal}, {"rounded", recognition.rounded}, {"differences", strangers}};
}

// The first differences, one per line, and the sum. The exit code.
int PrintRecognition(const CheckArguments& a, const std::optional<Recognition>& recognition) {
  if (!recognition) return 0;
  const size_t shown = std::min(recognition->strangers.size(), kShownDifferences);
  for (size_t i = 0; i < shown && !a.common.json; ++i)
    cli::Print(stdout, "%s: %s\n", recognition->strangers[i].tensor, recognition->strangers[i].what);
  if (shown < recognition->strangers.size() && !a.common.json)
    cli::Print(stdout, "and %zu more; --json has all\n", recognition->strangers.size() - shown);
  if (!a.common.json && !a.common.quiet)
    cli::Print(stdout, "%s: %" PRIu64 " tensors as %s has them, %" PRIu64 " rounded to BF16, %zu not\n", a.directory,
               recognition->equal, a.against, recognition->rounded, recognition->strangers.size());
  return recognition->strangers.empty() ? 0 : cli::ExitCode(ErrorCode::kCheckFailed);
}

// Shows what there is to say; 1 where it holds errors, which --quiet does not silence.
int Judged(const CheckArguments& a, const Verdict& findings) {
  cli::PrintFindings(kVerifyName, findings, a.common);
  if (findings.CountOf(Severity::kError) == 0) return 0;
  if (a.common.quiet) cli::PrintError(kVerifyName, findings.ToStatus().error(), /*json=*/false);
  return cli::ExitCode(ErrorCode::kCheckFailed);
}

// What is not as the manifest says, one per line; 1 where there is something.
int PrintDifferences(const CheckArguments& a, const CheckReport& report) {
  const size_t shown = std::min(report.differences.size(), kShownDifferences);
  for (size_t i = 0; i < shown; ++i)
    cli::Print(stderr, "%s: difference: %s\n", kVerifyName, report.differences[i].Line());
  if (shown < report.differences.size())
    cli::Print(stderr, "%s: and %zu more; --json has all\n", kVerifyName, report.differences.size() - shown);
  if (report.differences.empty()) return 0;
  Error error = CheckFailed(std::to_string(report.differences.size()) + " difference(s)")
                    .File(a.directory)
                    .Advice("convert again");
  return cli::PrintError(kVerifyName, error, /*json=*/false);  // the document holds the differences
}

// A directory that nothing recorded: what it declares, and whether that is what it stores.
int CheckWithoutManifest(const CheckArguments& a, const Verdict& findings,
                         const std::optional<Recognition>& recognition) {
  if (a.common.json) {
    nlohmann::ordered_json document = {{"manifest", false}, {"findings", cli::FindingsJson(findings)}};
    if (recognition) document["against"] = RecognitionJson(*recognition);
    cli::PrintJson(cli::JsonText(document));
  }
  if (const int code = Judged(a, findings); code != 0) return code;
  if (recognition) return PrintRecognition(a, recognition);
  if (!a.common.json && !a.common.quiet)
    cli::Print(stdout, "%s: structure and declarations agree; there is no manifest, so that no byte was compared\n",
               a.directory);
  return 0;
}

int Check(CheckArguments& a) {
  const std::unique_ptr<ProgressObserver> progress = cli::MakeProgress(a.common);
  a.options.progress = progress.get();
  const Result<DirectoryVerdict> verdict = JudgeDirectory(PosixFileSystem(), a.directory);
  if (!verdict.ok()) return cli::PrintError(kVerifyName, verdict.error(), a.common.json);
  const Verdict& findings = verdict.value().findings;
  Values values(a);
  const Result<std::optional<Recognition>> against = values.Against();
  if (!against.ok()) return cli::PrintError(kVerifyName, against.error(), a.common.json);
  const std::optional<Recognition>& recognition = against.value();
  if (!verdict.value().manifest) return CheckWithoutManifest(a, findings, recognition);
  Result<CheckReport> result = CheckDirectory(PosixFileSystem(), a.directory, a.options);
  if (!result.ok()) return cli::PrintError(kVerifyName, result.error(), a.common.json);
  const bool hash_values = result->logical_hashes && result->differences.empty();
  if (Status s = values.AddDifferences(&*result); !s.ok())
    return cli::PrintError(kVerifyName, s.error(), a.common.json);
  const CheckReport& report = result.value();
  if (a.common.json) {
    nlohmann::ordered_json differences = nlohmann::ordered_json::array();
    for (const Difference& d : report.differences)
      differences.push_back(
          {{"file", d.file}, {"tensor", d.tensor}, {"what", d.what}, {"expected", d.expected}, {"found", d.found}});
    nlohmann::ordered_json document = {{"manifest", true},
                                       {"files", report.files},
                                       {"tensors", report.tensors},
                                       {"bytes", report.bytes},
                                       {"unhashed_tensors", report.unhashed_tensors},
                                       {"manifest_hash", report.manifest_holds_hash},
                                       {"differences", differences},
                                       {"findings", cli::FindingsJson(findings)}};
    if (report.logical_hashes) document["values"] = hash_values ? report.logical_hashes->size() : 0;
    if (recognition) document["against"] = RecognitionJson(*recognition);
    cli::PrintJson(cli::JsonText(document));
  }
  const int differs = PrintDifferences(a, report), judged = Judged(a, findings);
  if (differs != 0 || judged != 0) return std::max(differs, judged);
  if (!a.common.json && !a.common.quiet)
    cli::Print(stdout, "%s: %" PRIu64 " files, %" PRIu64 " tensors, %s: all as the manifest says%s%s%s\n", a.directory,
               report.files, report.tensors, FormatBytes(report.bytes),
               hash_values ? "; values of " + std::to_string(report.logical_hashes->size()) + " tensors too" : "",
               report.unhashed_tensors > 0
                   ? "; linked files by length and header only (convert with --hash-linked for more)"
                   : "",
               report.manifest_holds_hash ? "" : "; the manifest is of version 1, which holds no hash of itself");
  return PrintRecognition(a, recognition);
}

class CheckCommand final : public VerifyCommand {
 public:
  explicit CheckCommand(cli::CommonOptions& common) : arguments_{common} {}

  CLI::App* Add(CLI::App& app) override {
    CLI::App* check = app.add_subcommand(
        "check", "structure against config.json; with a mimo-manifest.json every tensor and file against it");
    check->add_option("OUT", arguments_.directory, "an output of mimo-convert, or any checkpoint")->required();
    check->add_option("--against", arguments_.against,
                      "values too, against the hashes that mimo-verify manifest took of a model in any form");
    cli::AddSourceQkv(*check, arguments_.source_qkv, "checkpoint");
    check->add_option("--threads", arguments_.options.threads, "threads (default: one per CPU that it may use)")
        ->check(CLI::Range(0, 4096));
    cli::AddCommonOptions(*check, arguments_.common, kCheckExamples);
    return check;
  }
  int Run() override { return Check(arguments_); }

 private:
  CheckArguments arguments_;
};

}  // namespace

std::unique_ptr<VerifyCommand> MakeCheckCommand(cli::CommonOptions& common) {
  return std::make_unique<CheckCommand>(common);
}

}  // namespace mimo
