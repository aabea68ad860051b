// mimo-inspect CKPT: what is this checkpoint, what is odd about it, and which engines will load it.
#include <algorithm>
#include <cstdio>
#include <optional>

#include "lib/form/checkpoint.h"
#include "lib/form/megatron_store.h"
#include "tools/cli.h"
#include "tools/inspect_report.h"

namespace mimo {
namespace {

constexpr char kName[] = "mimo-inspect";
constexpr char kFooter[] =
    "Reads headers, config.json, the index and a bounded sample of attention scales and codes: seconds, whatever the "
    "size.\n"
    "Examples:\n"
    "  mimo-inspect MiMo-V2.5\n"
    "  mimo-inspect MiMo-V2.5 --verbose --tp 4,8      every layer, file and role; why an engine refuses\n"
    "  mimo-inspect MiMo-V2.5 --json | jq '.qkv_layout, .qkv_chunks, .oddities'\n"
    "  mimo-inspect EXPORT --source-qkv fused:1       say what the tensors are where nothing decides it\n"
    "Exit codes: 0 understood, 2 usage, 3 refused (described as far as possible), 4 I/O.";

struct Arguments {
  std::string checkpoint;
  std::string source_qkv;
  std::string like;
  std::vector<int64_t> tps{1, 2, 4, 8, 16};
  bool allow_anomalies = false;
  cli::CommonOptions common;
};

// What was understood before an error, if one came.
struct Findings {
  std::optional<Inventory> inventory;
  std::optional<LayoutVerdict> verdict;
  std::optional<Error> error;
};

Findings Understand(const Arguments& a, const Catalogue& catalogue) {
  Findings findings;
  Result<Inventory> inventory = TakeInventory(catalogue);
  if (!inventory.ok()) {
    findings.error = inventory.TakeError();
    return findings;
  }
  findings.inventory = std::move(inventory).value();
  std::vector<QkvLayout> candidates;
  for (const LayoutCandidate& candidate : FeasibleLayouts(catalogue, *findings.inventory)) {
    candidates.push_back(candidate.layout);
  }
  if (!a.source_qkv.empty()) {
    Result<QkvLayout> flagged = ParseLayoutFlag(a.source_qkv, catalogue);
    if (!flagged.ok()) {
      findings.error = flagged.TakeError();
      return findings;
    }
    if (std::find(candidates.begin(), candidates.end(), *flagged) == candidates.end()) candidates.push_back(*flagged);
  }
  Result<SurveyFacts> facts = Survey(PosixFileSystem(), catalogue, *findings.inventory, candidates, a.allow_anomalies);
  if (!facts.ok()) {
    findings.error = facts.TakeError();
    return findings;
  }
  Result<LayoutVerdict> verdict = DecideLayout(catalogue, *findings.inventory, *facts, a.source_qkv);
  if (verdict.ok()) {
    findings.verdict = std::move(verdict).value();
  } else {
    findings.error = verdict.TakeError();
  }
  return findings;
}

// Rank files and Neuron directories: what they are as a Hugging Face checkpoint, and what is really stored.
Result<Description> DescribeViewed(const Arguments& a, const Checkpoint& checkpoint) {
  MIMO_ASSIGN_OR_RETURN(Description shown,
                        Describe(checkpoint.catalogue(), &checkpoint.inventory, &checkpoint.layout, a.tps));
  MIMO_ASSIGN_OR_RETURN(Description stored, Describe(checkpoint.stored, nullptr, nullptr, a.tps));
  shown.form = checkpoint.view->form;
  if (checkpoint.view->form == "sharded-state")
    shown.form += " of " + std::to_string(checkpoint.view->chunks) + " ranks";
  shown.tensor_count = stored.tensor_count;
  shown.payload_bytes = stored.payload_bytes;
  shown.file_bytes = stored.file_bytes;
  shown.files = std::move(stored.files);
  shown.index = std::move(stored.index);
  shown.engines.clear();  // the table judges Hugging Face directories
  shown.oddities.clear();
  return shown;
}

Result<Checkpoint> OpenViewed(const Arguments& a) {
  if (a.like.empty()) return OpenCheckpoint(PosixFileSystem(), a.checkpoint, a.source_qkv, a.allow_anomalies);
  MIMO_ASSIGN_OR_RETURN(const Catalogue reference, OpenCatalogue(PosixFileSystem(), a.like));
  return OpenCheckpoint(PosixFileSystem(), a.checkpoint, a.source_qkv, a.allow_anomalies, &reference);
}

int Inspect(const Arguments& a) {
  const auto place = FindMegatron(PosixFileSystem(), a.checkpoint);
  if (!place.ok()) return cli::PrintError(kName, place.error(), a.common);
  const bool megatron = place.value().has_value();
  Result<Catalogue> catalogue = Catalogue();
  if (!megatron) {
    catalogue = OpenCatalogue(PosixFileSystem(), a.checkpoint);
    if (!catalogue.ok()) return cli::PrintError(kName, catalogue.error(), a.common);
  }
  const bool viewed = megatron || !FormOf(*catalogue).empty();
  Findings findings;
  Result<Description> description = Description();
  if (viewed) {
    Result<Checkpoint> checkpoint = OpenViewed(a);
    if (!checkpoint.ok()) return cli::PrintError(kName, checkpoint.error(), a.common);
    description = DescribeViewed(a, *checkpoint);
  } else {
    findings = Understand(a, *catalogue);
    description = Describe(*catalogue, findings.inventory ? &*findings.inventory : nullptr,
                           findings.verdict ? &*findings.verdict : nullptr, a.tps);
  }
  if (!description.ok()) return cli::PrintError(kName, description.error(), a.common);
  const Error* error = findings.error ? &*findings.error : nullptr;
  if (a.common.json) {
    std::printf("%s\n", cli::InspectJson(a.checkpoint, *description, error).c_str());
  } else if (!a.common.quiet) {
    std::fputs(cli::InspectText(a.checkpoint, *description, a.common.verbose).c_str(), stdout);
  }
  if (error == nullptr) return 0;
  std::fflush(stdout);
  cli::CommonOptions text_only = a.common;
  text_only.json = false;  // the document holds the error already
  return cli::PrintError(kName, *error, text_only);
}

}  // namespace
}  // namespace mimo

int main(int argc, char** argv) {
  mimo::Arguments arguments;
  CLI::App app{"Says what a MiMo-V2 checkpoint is: family, layers, QKV layout, quantization, oddities, engines.",
               mimo::kName};
  app.add_option("CKPT", arguments.checkpoint, "checkpoint directory (config.json and .safetensors files)")->required();
  app.add_option("--like", arguments.like, "checkpoint whose config.json is that of a training checkpoint without one");
  app.add_option("--source-qkv", arguments.source_qkv,
                 "split|independent|fused:C: overrides the decision about the layout");
  app.add_option("--tp", arguments.tps, "tensor-parallel sizes to judge engines at")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_flag("--allow-anomalies", arguments.allow_anomalies, "describe a checkpoint with NaN or negative scales too");
  mimo::cli::AddCommonOptions(app, arguments.common, mimo::kFooter);
  if (const auto code = mimo::cli::Parse(app, argc, argv, arguments.common)) return *code;
  return mimo::cli::Guard(mimo::kName, arguments.common, [&] { return mimo::Inspect(arguments); });
}
