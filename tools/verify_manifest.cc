// mimo-verify manifest CKPT: hashes of a model that survive resharding and dequantization.
#include <algorithm>

#include "lib/verify/logical/logical_hash.h"
#include "tools/cli.h"
#include "tools/print.h"
#include "tools/verify_command.h"

namespace mimo {
namespace {

constexpr char kManifestExamples[] =
    "Examples:\n"
    "  mimo-verify manifest CKPT > CKPT.hashes.json                   once, of the vendor's original\n"
    "  mimo-verify check OUT --against CKPT.hashes.json               is this the same model, wherever it went?\n"
    "Exit codes: 0 done, 2 usage, 3 not readable as a checkpoint, 4 I/O.";

struct ManifestArguments {
  cli::CommonOptions& common;
  std::string checkpoint = {};
  std::optional<QkvWish> source_qkv = {};
  LogicalHashOptions options = {};
};

int PrintManifest(ManifestArguments& a) {
  const auto fail = [&](const Error& error) { return cli::PrintError(kVerifyName, error, a.common.json); };
  const auto opened = LogicalCheckpoint::Open(
      PosixFileSystem(), a.checkpoint,
      {.source_qkv = a.source_qkv, .gate_up = {}, .allow_anomalies = true, .like = nullptr, .like_root = {}});
  if (!opened.ok()) return fail(opened.error());
  const std::unique_ptr<ProgressObserver> progress = cli::MakeProgress(a.common);
  a.options.progress = progress.get();
  const Result<std::vector<LogicalHash>> hashes = HashLogical(*opened.value(), a.options);
  if (!hashes.ok()) return fail(hashes.error());
  cli::PrintJson(LogicalManifestJson(hashes.value()));
  return 0;
}

class ManifestCommand final : public VerifyCommand {
 public:
  explicit ManifestCommand(cli::CommonOptions& common) : arguments_{common} {}

  CLI::App* Add(CLI::App& app) override {
    ManifestArguments& a = arguments_;
    CLI::App* manifest =
        app.add_subcommand("manifest", "hashes of every tensor's values, whatever the form and codec, as JSON");
    manifest->add_option("CKPT", a.checkpoint, "a checkpoint of any form")->required();
    cli::AddSourceQkv(*manifest, a.source_qkv, "checkpoint");
    manifest->add_option("--threads", a.options.threads, "threads (default: one per CPU that it may use)")
        ->check(CLI::Range(0, 4096));
    cli::AddSize(*manifest, "--memory", a.options.memory_bytes, "rows in flight (default: min(8 GiB, a quarter))");
    cli::AddCommonOptions(*manifest, a.common, kManifestExamples);
    return manifest;
  }
  int Run() override { return PrintManifest(arguments_); }

 private:
  ManifestArguments arguments_;
};

}  // namespace

std::unique_ptr<VerifyCommand> MakeManifestCommand(cli::CommonOptions& common) {
  return std::make_unique<ManifestCommand>(common);
}

}  // namespace mimo
