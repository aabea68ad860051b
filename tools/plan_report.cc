#include "tools/plan_report.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/checked.h"
#include "lib/run/memory_budget.h"
#include "tools/print.h"

namespace mimo {
namespace {

using nlohmann::ordered_json;

uint64_t Count(const PlanReport& r, bool Operations::*what) {
  return static_cast<uint64_t>(
      std::count_if(r.operations.begin(), r.operations.end(), [&](const Operations& o) { return o.*what; }));
}

// Groups with a shared global scale that do not fit in memory: measured first, then read again.
uint64_t GroupsReadTwice(const PlanReport& r, const PlanSummary& s) {
  const uint64_t memory = r.memory_bytes != 0 ? r.memory_bytes : DefaultMemoryBytes();
  return static_cast<uint64_t>(std::count_if(s.shared_group_bytes.begin(), s.shared_group_bytes.end(),
                                             [&](uint64_t bytes) { return bytes > memory; }));
}

// Layers with straddling blocks; those that are alike in one line, in the order of the first of each kind.
std::vector<std::pair<LayerSummary, std::vector<std::string>>> EqualLayers(const std::vector<LayerSummary>& layers) {
  std::vector<std::pair<LayerSummary, std::vector<std::string>>> kinds;
  for (const LayerSummary& layer : layers) {
    if (layer.straddling_blocks == 0) continue;
    const auto alike = std::find_if(kinds.begin(), kinds.end(), [&](const auto& kind) {
      return kind.first.blocks == layer.blocks && kind.first.straddling_blocks == layer.straddling_blocks;
    });
    if (alike == kinds.end())
      kinds.push_back({layer, {layer.label}});
    else
      alike->second.push_back(layer.label);
  }
  return kinds;
}

}  // namespace

std::string PlanReportJson(const PlanReport& r) {
  const Plan& plan = r.plan;
  const PlanSummary& s = r.summary;
  ordered_json layouts = ordered_json::array();
  for (const LayerSummary& layer : s.relayouts)
    layouts.push_back(
        {{"layer", layer.label}, {"blocks", layer.blocks}, {"straddling_blocks", layer.straddling_blocks}});
  ordered_json json = {{"digest", plan.digest.Hex()},
                       {"source_qkv", plan.source_layout.layout.ToString()},
                       {"source_qkv_basis", plan.source_layout.basis},
                       {"source_qkv_assumed", plan.source_layout.assumed},
                       {"target_qkv", plan.target_layout.ToString()},
                       {"lossless", plan.lossless},
                       {"straddling_blocks", plan.straddling_blocks},
                       {"tensors",
                        {{"written", s.outputs},
                         {"moved", s.moved},
                         {"converted", s.converted},
                         {"relaid", s.relaid},
                         {"encoded", s.encoded},
                         {"transposed", s.transposed},
                         {"constants", s.constants},
                         {"replicated", Count(r, &Operations::replicated)},
                         {"padded", s.padded},
                         {"dropped", s.dropped}}},
                       {"files", {{"all", s.files}, {"unchanged", s.files_unchanged}, {"groups", plan.file_groups}}},
                       {"payload_bytes", plan.payload_bytes},
                       {"read_bytes", s.bytes_read},
                       {"disk_bytes", s.bytes_written},
                       {"linkable_bytes", s.bytes_unchanged},
                       {"largest_group_bytes", s.largest_group_bytes},
                       {"groups_read_twice", GroupsReadTwice(r, s)},
                       {"layers", std::move(layouts)},
                       {"notes", plan.notes}};
  if (r.verbose) {
    ordered_json outputs = ordered_json::array();
    for (size_t i = 0; i < plan.outputs.size(); ++i)
      outputs.push_back({{"name", plan.outputs[i].name},
                         {"file", plan.files[plan.outputs[i].file].name},
                         {"operations", OperationsText(r.operations[i])}});
    json["outputs"] = std::move(outputs);
  }
  return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

void PrintPlanReport(const PlanReport& r) {
  const Plan& plan = r.plan;
  const PlanSummary& s = r.summary;
  cli::Print(stdout, "source      %s, by %s%s\n", plan.source_layout.layout.ToString(), plan.source_layout.basis,
             plan.source_layout.assumed ? " (assumed)" : "");
  for (const std::string& line : plan.source_layout.evidence) cli::Print(stdout, "            %s\n", line);
  cli::Print(stdout, "target      %s, %s: %s\n", plan.target_layout.ToString(), r.stored_as,
             plan.lossless ? "lossless" : "rounds");
  cli::Print(stdout,
             "tensors     %" PRIu64 ": %" PRIu64 " moved, %" PRIu64 " converted, %" PRIu64 " re-laid out, %" PRIu64
             " quantized; %" PRIu64 " of the source dropped\n",
             s.outputs, s.moved, s.converted, s.relaid, s.encoded, s.dropped);
  const uint64_t replicated = Count(r, &Operations::replicated);
  if (replicated + s.padded + s.transposed + s.constants > 0)
    cli::Print(stdout,
               "            %" PRIu64 " hold replicas, %" PRIu64 " padding; %" PRIu64 " transposed, %" PRIu64
               " constants\n",
               replicated, s.padded, s.transposed, s.constants);
  cli::Print(stdout, "files       %" PRIu64 ", %" PRIu64 " unchanged (%s that --link need not write)\n", s.files,
             s.files_unchanged, FormatBytes(s.bytes_unchanged));
  cli::Print(stdout, "bytes       read %s, write %s; largest fuse group %s\n", FormatBytes(s.bytes_read),
             FormatBytes(s.bytes_written), FormatBytes(s.largest_group_bytes));
  const char* scales = plan.options.fresh_scales ? "fresh scales" : "the best of the source's scales and a fresh one";
  for (const auto& [layer, labels] : EqualLayers(s.relayouts)) {
    const std::string which = labels.size() == 1 ? labels[0]
                                                 : labels.front() + " to " + labels.back() + ", " +
                                                       std::to_string(labels.size()) + " alike, each";
    cli::Print(stdout, "straddles   %s: %" PRIu64 " of %" PRIu64 " blocks are re-quantized (%s)\n", which,
               layer.straddling_blocks, layer.blocks, scales);
  }
  if (!s.relayouts.empty() && plan.straddling_blocks == 0)
    cli::Print(stdout, "straddles   none: codes and scales are moved\n");
  if (const uint64_t twice = GroupsReadTwice(r, s); twice > 0)
    cli::Print(stdout, "memory      %" PRIu64 " fuse groups exceed --memory: their sources are read twice\n", twice);
  for (const std::string& note : plan.notes) cli::Print(stdout, "note        %s\n", note);
  if (r.verbose) {
    for (size_t i = 0; i < plan.outputs.size(); ++i)
      cli::Print(stdout, "  %s  %s  %s\n", plan.files[plan.outputs[i].file].name, plan.outputs[i].name,
                 OperationsText(r.operations[i]));
    for (const SourceFate& f : plan.fates)
      if (f.fate == Fate::kDropped)
        cli::Print(stdout, "  dropped  %s: %s\n", r.catalogue.arrays[f.array].name, f.reason);
  }
  cli::Print(stdout, "digest      %s\n", plan.digest.Hex());
}

}  // namespace mimo
