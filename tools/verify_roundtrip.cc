// mimo-verify roundtrip CKPT: a conversion there and back in memory.
#include <nlohmann/json.hpp>

#include "lib/verify/compare/roundtrip.h"
#include "tools/cli.h"
#include "tools/compare_report.h"
#include "tools/plan_flags.h"
#include "tools/print.h"
#include "tools/verify_command.h"

namespace mimo {
namespace {

constexpr char kRoundtripExamples[] =
    "Examples:\n"
    "  mimo-verify roundtrip CKPT --to vllm --tp 8                          is what vLLM would get this model, "
    "exactly?\n"
    "  mimo-verify roundtrip CKPT --recipe nvfp4-experts --min-sqnr experts=19\n"
    "  mimo-verify roundtrip CKPT --to megatron --json                      before a week of training\n"
    "Exit codes: 0 equal, or within what the plan rounds, 1 not, 2 usage, 3 bad input, 4 I/O.";

struct RoundtripArguments : PlanFlags {
  explicit RoundtripArguments(cli::CommonOptions& shared) : common(shared) {}
  cli::CommonOptions& common;
  std::string checkpoint;
  std::vector<std::string> min_sqnr;
  CompareOptions options;
};

int Roundtrip(RoundtripArguments& a) {
  const auto fail = [&](const Error& error) { return cli::PrintError(kVerifyName, error, a.common.json); };
  if (const Status read = cli::ReadThresholds(a.min_sqnr, &a.options); !read.ok()) return fail(read.error());
  if (const Status read = ReadPlanFlags(a); !read.ok()) return fail(read.error());
  const std::unique_ptr<ProgressObserver> progress = cli::MakeProgress(a.common);
  a.options.progress = progress.get();
  const Result<RoundtripReport> made = Roundtrip(PosixFileSystem(), a.checkpoint, a.plan, a.options);
  if (!made.ok()) return fail(made.error());
  const RoundtripReport& report = made.value();
  if (a.common.json) {
    nlohmann::ordered_json document = {{"holds", report.Holds()},
                                       {"lossless", report.lossless},
                                       {"violations", report.violations},
                                       {"there", cli::CompareReportJson(report.there)}};
    document["back"] = report.back ? cli::CompareReportJson(*report.back) : nlohmann::ordered_json(nullptr);
    cli::PrintJson(cli::JsonText(document));
  } else {
    cli::Print(stdout, "there (%s):\n", report.lossless ? "the plan is lossless" : "the plan rounds");
    cli::PrintCompareReport(report.there, a.common);
    if (report.back) cli::Print(stdout, "and back:\n");
    if (report.back) cli::PrintCompareReport(*report.back, a.common);
    for (const std::string& violation : report.violations) cli::Print(stdout, "violated: %s\n", violation);
    if (!a.common.quiet)
      cli::Print(stdout, "%s\n", report.Holds() ? "the round trip holds" : "the round trip does not hold");
  }
  return report.Holds() ? 0 : cli::ExitCode(ErrorCode::kCheckFailed);
}

class RoundtripCommand final : public VerifyCommand {
 public:
  explicit RoundtripCommand(cli::CommonOptions& common) : arguments_(common) {}

  CLI::App* Add(CLI::App& app) override {
    RoundtripArguments& a = arguments_;
    CLI::App* roundtrip =
        app.add_subcommand("roundtrip", "a conversion there and back in memory: proof of equality, or bounds");
    roundtrip->add_option("CKPT", a.checkpoint, "a checkpoint of any form")->required();
    AddPlanFlags(*roundtrip, a);
    roundtrip->add_option("--min-sqnr", a.min_sqnr, "ROLE=dB: what is quantized of this role has at least this SQNR");
    roundtrip->add_option("--threads", a.options.threads, "threads (default: one per CPU that it may use)")
        ->check(CLI::Range(0, 4096));
    cli::AddSize(*roundtrip, "--memory", a.options.memory_bytes, "rows in flight (default: min(8 GiB, a quarter))");
    cli::AddCommonOptions(*roundtrip, a.common, kRoundtripExamples);
    return roundtrip;
  }
  int Run() override { return Roundtrip(arguments_); }

 private:
  RoundtripArguments arguments_;
};

}  // namespace

std::unique_ptr<VerifyCommand> MakeRoundtripCommand(cli::CommonOptions& common) {
  return std::make_unique<RoundtripCommand>(common);
}

}  // namespace mimo
