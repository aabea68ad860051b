// mimo-synth PRESET OUT: a synthetic checkpoint of a named family at any scale.
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "lib/base/checked.h"
#include "lib/base/file_system.h"
#include "lib/synth/synth.h"
#include "tools/cli.h"
#include "tools/print.h"

namespace mimo {
namespace {

constexpr char kName[] = "mimo-synth";
constexpr char kExamples[] =
    "  mimo-synth --list\n"
    "  mimo-synth PRESET /tmp/small --layers 7 --experts 8 --hidden 512 --vocab 1024 --no-towers\n"
    "  mimo-synth PRESET /tmp/whole --sparse     headers and holes, of the size of a release\n";

int List(const cli::CommonOptions& common) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const std::string& name : PresetNames()) {
    const Result<Preset> preset = LoadPreset(name);
    if (!preset.ok()) return cli::PrintError(kName, preset.error(), common.json);
    if (common.json) {
      list.push_back({{"name", name}, {"about", preset.value().about}});
    } else {
      cli::Print(stdout, "%-18s %s\n", name, preset.value().about);
    }
  }
  if (common.json) cli::PrintJson(nlohmann::ordered_json{{"presets", list}}.dump(2));
  return 0;
}

int Write(const SynthOptions& options, const std::string& out, const cli::CommonOptions& common) {
  const auto start = std::chrono::steady_clock::now();
  const Result<SynthPlan> plan = PlanSynthetic(options);
  if (!plan.ok()) return cli::PrintError(kName, plan.error(), common.json);
  const Result<SynthReport> written = WriteSynthetic(PosixFileSystem(), plan.value(), out);
  if (!written.ok()) return cli::PrintError(kName, written.error(), common.json);
  const SynthReport& report = written.value();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (common.json) {
    const nlohmann::ordered_json document = {{"preset", options.preset},  {"directory", out},
                                             {"tensors", report.tensors}, {"payload_bytes", report.payload_bytes},
                                             {"shards", report.shards},   {"shard_bytes", report.shard_bytes},
                                             {"sparse", options.sparse},  {"seconds", seconds}};
    cli::PrintJson(cli::JsonText(document));
  } else if (!common.quiet) {
    cli::Print(stdout, "%s: %llu tensors, %s in %llu shards%s, %.1f s\n", out,
               static_cast<unsigned long long>(report.tensors), FormatBytes(report.payload_bytes),
               static_cast<unsigned long long>(report.shards), options.sparse ? " (holes)" : "", seconds);
  }
  return 0;
}

}  // namespace
}  // namespace mimo

namespace {

int Run(int argc, char** argv) {
  CLI::App app(
      "Writes a synthetic checkpoint: the names, files, layouts and block grids of a released one, at any scale.",
      mimo::kName);
  mimo::cli::CommonOptions common;
  mimo::SynthOptions options;
  std::string out;
  bool list = false;
  bool no_towers = false;
  bool no_mtp = false;
  app.add_option("PRESET", options.preset, "Which checkpoint to imitate (see --list)");
  app.add_option("OUT", out, "Directory to write; absent or empty");
  app.add_flag("--list", list, "List the presets");
  app.add_option("--layers", options.layers, "Decoder layers to keep, from the first");
  app.add_option("--experts", options.experts, "Experts per layer to keep");
  app.add_option("--hidden", options.hidden, "Hidden size (heads keep their number and size)");
  app.add_option("--vocab", options.vocab, "Vocabulary size");
  app.add_option("--intermediate", options.intermediate, "Width of the dense MLPs");
  app.add_option("--moe-intermediate", options.moe_intermediate, "Width of the experts");
  app.add_option("--seed", options.seed, "Seed of the data")->capture_default_str();
  app.add_flag("--sparse", options.sparse, "Headers only: data are holes, full size costs seconds");
  app.add_option("--threads", options.threads, "Threads (default: one per CPU that it may use)")
      ->check(CLI::Range(1, 1024));
  app.add_flag("--no-towers", no_towers, "Without vision and audio towers");
  app.add_flag("--no-mtp", no_mtp, "Without MTP layers");
  app.add_flag("--overwrite", options.overwrite, "Remove the checkpoint that is in OUT first");
  mimo::cli::AddCommonOptions(app, common, mimo::kExamples);
  if (const std::optional<int> exit_code = mimo::cli::Parse(app, argc, argv, common)) return *exit_code;
  options.towers = !no_towers;
  options.mtp = !no_mtp;
  if (!list && (options.preset.empty() || out.empty())) {
    const auto error =
        mimo::UsageError("PRESET and OUT are needed").Advice("see mimo-synth --help and mimo-synth --list");
    return mimo::cli::PrintError(mimo::kName, error, common.json);
  }
  return mimo::cli::Guard(mimo::kName, common.json,
                          [&] { return list ? mimo::List(common) : mimo::Write(options, out, common); });
}

}  // namespace

int main(int argc, char** argv) {
  return mimo::cli::Main(mimo::kName, [&] { return Run(argc, argv); });
}
