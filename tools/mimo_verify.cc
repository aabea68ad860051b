// mimo-verify check OUT: proves that an output is what its manifest says.
#include <cinttypes>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "lib/base/checked.h"
#include "lib/verify/check.h"
#include "tools/cli.h"
#include "tools/print.h"

namespace mimo {
namespace {

constexpr char kName[] = "mimo-verify";
constexpr char kExamples[] =
    "Examples:\n"
    "  mimo-verify check MiMo-V2.5-BF16          before deployment, after a copy\n"
    "  mimo-verify check OUT --json --quiet      in CI\n"
    "Exit codes: 0 all holds, 1 differences, 2 usage, 3 not an output (no manifest), 4 I/O.";

struct Arguments {
  std::string directory;
  CheckOptions options;
  cli::CommonOptions common;
};

int Check(Arguments& a) {
  const std::unique_ptr<ProgressObserver> progress = cli::MakeProgress(a.common);
  a.options.progress = progress.get();
  const Result<CheckReport> result = CheckDirectory(PosixFileSystem(), a.directory, a.options);
  if (!result.ok()) return cli::PrintError(kName, result.error(), a.common.json);
  const CheckReport& report = result.value();
  if (a.common.json) {
    nlohmann::ordered_json differences = nlohmann::ordered_json::array();
    for (const Difference& d : report.differences)
      differences.push_back(
          {{"file", d.file}, {"tensor", d.tensor}, {"what", d.what}, {"expected", d.expected}, {"found", d.found}});
    const nlohmann::ordered_json document = {{"files", report.files},
                                             {"tensors", report.tensors},
                                             {"bytes", report.bytes},
                                             {"unhashed_tensors", report.unhashed_tensors},
                                             {"manifest_hash", report.manifest_holds_hash},
                                             {"differences", differences}};
    cli::PrintJson(cli::JsonText(document));
  }
  if (const Status status = report.ToStatus(); !status.ok())
    return cli::PrintError(kName, status.error(), /*json=*/false);  // the document above already holds the differences
  if (!a.common.json && !a.common.quiet)
    cli::Print(stdout, "%s: %" PRIu64 " files, %" PRIu64 " tensors, %s: all as the manifest says%s%s\n", a.directory,
               report.files, report.tensors, FormatBytes(report.bytes),
               report.unhashed_tensors > 0
                   ? "; linked files by length and header only (convert with --hash-linked for more)"
                   : "",
               report.manifest_holds_hash ? "" : "; the manifest is of version 1, which holds no hash of itself");
  return 0;
}

}  // namespace
}  // namespace mimo

namespace {

int Run(int argc, char** argv) {
  mimo::Arguments arguments;
  CLI::App app{"Checks what mimo-convert wrote.", mimo::kName};
  app.require_subcommand(1);
  CLI::App* check = app.add_subcommand("check", "re-hash every tensor and file against mimo-manifest.json");
  check->add_option("OUT", arguments.directory, "an output of mimo-convert")->required();
  check->add_option("--threads", arguments.options.threads, "threads (default: one per CPU that it may use)")
      ->check(CLI::Range(0, 4096));
  mimo::cli::AddCommonOptions(*check, arguments.common, mimo::kExamples);
  if (const auto code = mimo::cli::Parse(app, argc, argv, arguments.common)) return *code;
  return mimo::cli::Guard(mimo::kName, arguments.common.json, [&] { return mimo::Check(arguments); });
}

}  // namespace

int main(int argc, char** argv) {
  return mimo::cli::Main(mimo::kName, [&] { return Run(argc, argv); });
}
