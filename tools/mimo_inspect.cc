// mimo-inspect CKPT: what is this checkpoint, what is odd about it, and which engines will load it.
#include <cstdio>
#include <optional>

#include "lib/forms/registry/open_checkpoint.h"
#include "lib/judge/copies.h"
#include "lib/judge/health.h"
#include "lib/judge/judge.h"
#include "lib/model/family.h"
#include "tools/cli.h"
#include "tools/inspect_report.h"
#include "tools/print.h"

namespace mimo {
namespace {

constexpr char kName[] = "mimo-inspect";
constexpr char kFooter[] =
    "Reads headers, config.json, the index, scalars and vectors, and a bounded sample of attention scales, codes and "
    "rows: seconds, whatever the size.\n"
    "Examples:\n"
    "  mimo-inspect CKPT\n"
    "  mimo-inspect CKPT --verbose --tp 4,8           every layer, file and role; why an engine refuses\n"
    "  mimo-inspect CKPT --json | jq '.qkv_layout, .qkv_chunks, .findings'\n"
    "  mimo-inspect EXPORT --source-qkv fused:1       say what the tensors are where nothing decides it\n"
    "Exit codes: 0 understood, 1 with warnings under --strict, 2 usage, 3 damaged, contradicted or undecidable "
    "(described\n"
    "as far as possible), 4 I/O.";

struct Arguments {
  std::string checkpoint;
  std::optional<QkvWish> source_qkv;
  std::string like;
  std::vector<int64_t> tps{1, 2, 4, 8, 16};
  bool allow_anomalies = false;
  bool strict = false;
  bool headers_only = false;
  cli::CommonOptions common;
};

// Rank files and Neuron directories: what they are as a Hugging Face checkpoint, and what is really stored.
Result<Description> DescribeViewed(const Arguments& a, const Checkpoint& checkpoint) {
  MIMO_ASSIGN_OR_RETURN(Description shown,
                        Describe(checkpoint.catalogue(), &checkpoint.inventory, &checkpoint.layout, a.tps));
  MIMO_ASSIGN_OR_RETURN(Description stored, Describe(checkpoint.stored, nullptr, nullptr, a.tps));
  shown.form = checkpoint.view->form;
  shown.ranks = checkpoint.view->chunks;
  shown.tensor_count = stored.tensor_count;
  shown.payload_bytes = stored.payload_bytes;
  shown.file_bytes = stored.file_bytes;
  shown.files = std::move(stored.files);
  shown.index = std::move(stored.index);
  shown.engines.clear();  // the table judges Hugging Face directories
  return shown;
}

// Of a checkpoint that was opened: what is shown above is not said again.
int ExitOf(const Arguments& a, const Verdict& findings) {
  if (findings.CountOf(Severity::kError) > 0) return cli::ExitCode(ErrorCode::kBadInput);
  return a.strict && findings.CountOf(Severity::kWarning) > 0 ? cli::ExitCode(ErrorCode::kCheckFailed) : 0;
}

Result<Verdict> HealthOf(const Arguments& a, const OpenedCheckpoint& opened) {
  using Reached = OpenedCheckpoint::Reached;
  MIMO_ASSIGN_OR_RETURN(Verdict verdict,
                        JudgeHealth(PosixFileSystem(), opened.checkpoint, opened.reached >= Reached::kInventory,
                                    {.allow_anomalies = a.allow_anomalies}));
  if (opened.reached != Reached::kLayout) return verdict;
  MIMO_ASSIGN_OR_RETURN(Verdict copies, JudgeCopies(PosixFileSystem(), opened.checkpoint,
                                                    {.sample = true, .allow_anomalies = a.allow_anomalies}));
  verdict.Append(std::move(copies));
  return verdict;
}

int Inspect(const Arguments& a) {
  using Reached = OpenedCheckpoint::Reached;
  const OpenedCheckpoint opened =
      OpenAsFarAsPossible(PosixFileSystem(), a.checkpoint,
                          {.source_qkv = a.source_qkv, .allow_anomalies = a.allow_anomalies, .like_root = a.like});
  if (opened.reached == Reached::kNothing) return cli::PrintError(kName, opened.status.error(), a.common.json);
  const Checkpoint& checkpoint = opened.checkpoint;
  Result<Description> description =
      checkpoint.view
          ? DescribeViewed(a, checkpoint)
          : Describe(checkpoint.stored, opened.reached >= Reached::kInventory ? &checkpoint.inventory : nullptr,
                     opened.reached >= Reached::kLayout ? &checkpoint.layout : nullptr, a.tps);
  if (!description.ok()) return cli::PrintError(kName, description.error(), a.common.json);
  const Error* error = opened.status.ok() ? nullptr : &opened.status.error();
  description->findings = JudgeOpened(opened);
  if (!a.headers_only) {
    Result<Verdict> health = HealthOf(a, opened);
    if (!health.ok()) return cli::PrintError(kName, health.error(), a.common.json);
    description->findings.Append(std::move(*health));
  }
  if (a.common.json) {
    cli::PrintJson(cli::InspectJson(a.checkpoint, description.value(), error));
  } else if (!a.common.quiet) {
    cli::PrintLines(cli::InspectText(a.checkpoint, description.value(), a.common.verbose));
  }
  if (error == nullptr) return ExitOf(a, description->findings);
  std::fflush(stdout);
  return cli::PrintError(kName, *error, /*json=*/false);  // the document holds the error already
}

}  // namespace
}  // namespace mimo

namespace {

int Run(int argc, char** argv) {
  mimo::Arguments arguments;
  CLI::App app{"Says what a checkpoint of " + mimo::KnownFamilies(false) +
                   " is: family, layers, QKV layout, quantization, what is odd or wrong, engines.",
               mimo::kName};
  app.add_option("CKPT", arguments.checkpoint, "checkpoint directory (config.json and .safetensors files)")->required();
  app.add_option("--like", arguments.like, "checkpoint whose config.json is that of a training checkpoint without one");
  mimo::cli::AddSourceQkv(app, arguments.source_qkv, "layout");
  app.add_option("--tp", arguments.tps, "tensor-parallel sizes to judge engines at")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_flag("--headers-only", arguments.headers_only,
               "leave scalars and vectors unread: norms, biases, sinks, global and input scales");
  app.add_flag("--allow-anomalies", arguments.allow_anomalies, "describe a checkpoint with NaN or negative scales too");
  app.add_flag("--strict", arguments.strict, "exit 1 where there are warnings");
  mimo::cli::AddCommonOptions(app, arguments.common, mimo::kFooter);
  if (const auto code = mimo::cli::Parse(app, argc, argv, arguments.common)) return *code;
  return mimo::cli::Guard(mimo::kName, arguments.common.json, [&] { return mimo::Inspect(arguments); });
}

}  // namespace

int main(int argc, char** argv) {
  return mimo::cli::Main(mimo::kName, [&] { return Run(argc, argv); });
}
