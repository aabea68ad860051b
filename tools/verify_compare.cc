// mimo-verify compare A B: whether two checkpoints are the same model, whatever form and codec each is in.
#include <nlohmann/json.hpp>

#include "lib/verify/compare/compare.h"
#include "tools/cli.h"
#include "tools/compare_report.h"
#include "tools/print.h"
#include "tools/verify_command.h"

namespace mimo {
namespace {

constexpr char kCompareExamples[] =
    "Examples:\n"
    "  mimo-verify compare CKPT CKPT-BF16                         decoded, split, resharded: the same model?\n"
    "  mimo-verify compare CKPT OUT-NVFP4 --within-codec          every value is what rounding may make of it\n"
    "  mimo-verify compare A B --min-sqnr experts=19 --json       in CI\n"
    "Exit codes: 0 equal or within what was asked, 1 different, 2 usage, 3 not readable as checkpoints, 4 I/O.";

struct CompareArguments {
  cli::CommonOptions& common;
  std::string a = {}, b = {};
  std::vector<std::string> min_sqnr = {};
  CompareOptions options = {};
};

// A training checkpoint without a config takes that of the other.
Result<std::unique_ptr<LogicalCheckpoint>> OpenBeside(const std::string& root, const std::string& other) {
  FileSystem& fs = PosixFileSystem();
  auto opened = LogicalCheckpoint::Open(fs, root, {.allow_anomalies = true});
  if (opened.ok() || opened.error().code != ErrorCode::kBadInput) return opened;
  OpenOptions like{.allow_anomalies = true};
  like.like_root = other;
  auto beside = LogicalCheckpoint::Open(fs, root, like);
  return beside.ok() ? std::move(beside) : std::move(opened);
}

int Compare(CompareArguments& a) {
  if (const Status read = cli::ReadThresholds(a.min_sqnr, &a.options); !read.ok())
    return cli::PrintError(kVerifyName, read.error(), a.common.json);
  const auto of_a = OpenBeside(a.a, a.b);
  if (!of_a.ok()) return cli::PrintError(kVerifyName, of_a.error(), a.common.json);
  const auto of_b = OpenBeside(a.b, a.a);
  if (!of_b.ok()) return cli::PrintError(kVerifyName, of_b.error(), a.common.json);
  const std::unique_ptr<ProgressObserver> progress = cli::MakeProgress(a.common);
  a.options.progress = progress.get();
  const Result<CompareReport> report = Compare(PosixFileSystem(), *of_a.value(), *of_b.value(), a.options);
  if (!report.ok()) return cli::PrintError(kVerifyName, report.error(), a.common.json);
  if (a.common.json)
    cli::PrintJson(cli::JsonText(cli::CompareReportJson(report.value())));
  else
    cli::PrintCompareReport(report.value(), a.common);
  return report.value().Same() ? 0 : cli::ExitCode(ErrorCode::kCheckFailed);
}

class CompareCommand final : public VerifyCommand {
 public:
  explicit CompareCommand(cli::CommonOptions& common) : arguments_{common} {}

  CLI::App* Add(CLI::App& app) override {
    CompareArguments& a = arguments_;
    CLI::App* compare =
        app.add_subcommand("compare", "whether two checkpoints are the same model, in whatever form and codec");
    compare->add_option("A", a.a, "a checkpoint of any form")->required();
    compare->add_option("B", a.b, "the one to be held against it")->required();
    compare->add_flag("--within-codec", a.options.within_codec,
                      "values may be half a step of the coarser side's codec apart");
    compare->add_option("--min-sqnr", a.min_sqnr,
                        "ROLE=dB: tensors of this role may differ with this SQNR or more; again for others");
    compare->add_option("--include", a.options.include,
                        "only tensors whose name has this (RE2); carried/NAME is what travels along");
    compare->add_option("--exclude", a.options.exclude, "but these (RE2)");
    compare->add_option("--state", a.options.state,
                        "a file: what is found is noted there, and a comparison that was stopped goes on from it");
    compare->add_option("--threads", a.options.threads, "threads (default: one per CPU that it may use)")
        ->check(CLI::Range(0, 4096));
    cli::AddSize(*compare, "--memory", a.options.memory_bytes, "rows in flight (default: min(8 GiB, a quarter))");
    cli::AddCommonOptions(*compare, a.common, kCompareExamples);
    return compare;
  }
  int Run() override { return Compare(arguments_); }

 private:
  CompareArguments arguments_;
};

}  // namespace

std::unique_ptr<VerifyCommand> MakeCompareCommand(cli::CommonOptions& common) {
  return std::make_unique<CompareCommand>(common);
}

}  // namespace mimo
