#include "lib/forms/merge/merge_form.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "lib/forms/strays.h"
#include "lib/json/parse.h"
#include "lib/model/file_names.h"

namespace mimo {

namespace {

// That of the reference, with what it forgot and what the run brings; "" where there is one file and no index.
Result<std::string> IndexOf(const Planning& p, const Plan& plan) {
  using nlohmann::ordered_json;
  const IndexInfo& index = p.catalogue.index;
  const bool complete =
      std::none_of(p.stored.strays.begin(), p.stored.strays.end(),
                   [](const StrayFile& stray) { return stray.root.empty() && stray.kind == StrayKind::kForgotten; }) &&
      std::none_of(plan.files.begin(), plan.files.end(),
                   [](const PlanFile& file) { return file.name == kRunUnknownFile; });
  if (complete) return index.present ? index.text : std::string();
  ordered_json document = ordered_json::object();
  if (index.present) {
    MIMO_ASSIGN_OR_RETURN(document, ParseJson<ordered_json>(index.text, kIndexName, kLongDocument));
  }
  document["metadata"]["total_size"] = plan.payload_bytes;
  ordered_json& where = document["weight_map"];
  for (const OutputArray& output : plan.outputs) where[output.name] = plan.files[output.file].name;
  return document.dump(2) + "\n";
}

}  // namespace

Status MergeForm::Check(const Planning& p) const {
  const PlanOptions& options = p.options;
  if (options.to != TargetKind::kHf || options.max_shard_bytes > 0 || options.text_only || !options.include.empty() ||
      !options.exclude.empty() || options.fp8_block_rows > 0 || options.fold_value_scale || options.expert_codes ||
      options.router_bias || (options.qkv.kind != QkvWish::Kind::kKeep && options.qkv.kind != QkvWish::Kind::kRestore))
    return UsageError("--like stores everything as the reference does")
        .Expected("no option that changes names, layout or codecs, or --dtype bf16 with them")
        .Found("one")
        .Advice("two runs: --like first, then the rest");
  if (options.lossless)
    return UsageError("values of a run are quantized under --like")
        .Expected("no --lossless")
        .Found("--lossless")
        .Advice("the report counts what is exact");
  return {};
}

Status MergeForm::Describe(const Planning& p, Plan* plan) const {
  const Catalogue& catalogue = p.catalogue;
  for (const OutputArray& output : plan->outputs) plan->payload_bytes += output.end - output.begin;
  plan->texts.push_back({kConfigName, catalogue.config.text});
  MIMO_ASSIGN_OR_RETURN(std::string index, IndexOf(p, *plan));
  if (!index.empty()) plan->texts.push_back({kIndexName, std::move(index)});
  if (catalogue.origin) {
    plan->texts.push_back({kOriginConfigName, catalogue.origin->config});
    if (catalogue.origin->index) plan->texts.push_back({kOriginIndexName, catalogue.origin->index->info.text});
  }
  for (const CarriedFile& file : catalogue.carried)
    if (!IsDroppedStray(p.stored, file.name, p.options.unknown)) plan->carried.push_back(file.name);
  return {};
}

void MergeForm::Note(Planning* p) const {
  for (const std::string& note : p->view->notes) p->notes.push_back(note);
  if (!p->like->stored_run_broken_mtp.empty())
    p->notes.push_back(std::to_string(p->like->stored_run_broken_mtp.size()) +
                       " tensors of MTP layers that the run has not whole, or under other names, are left out");
  if (!p->view->skipped.empty()) p->notes.push_back("left out of the run: " + p->view->skipped);
}

std::string MergeForm::WhyUnread(const Planning& p, uint32_t array) const {
  const std::vector<uint32_t>& unknown = p.like->stored_run_unknown;
  if (std::binary_search(unknown.begin(), unknown.end(), array)) return "unknown tensor of the run, --unknown drop";
  const std::vector<uint32_t>& broken = p.like->stored_run_broken_mtp;
  if (std::binary_search(broken.begin(), broken.end(), array))
    return "of an MTP layer that is not whole in the run: the reference's takes its place";
  const bool of_run = p.stored.arrays[array].name.starts_with(kRunPrefix);
  return of_run ? "the reference has no place for it, or a replica" : "the run's values take its place";
}

}  // namespace mimo
