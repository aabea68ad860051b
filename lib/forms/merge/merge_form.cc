#include "lib/forms/merge/merge_form.h"

#include "lib/model/file_names.h"

namespace mimo {

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
  if (catalogue.index.present) plan->texts.push_back({kIndexName, catalogue.index.text});
  if (catalogue.origin) {
    plan->texts.push_back({kOriginConfigName, catalogue.origin->config});
    if (catalogue.origin->index) plan->texts.push_back({kOriginIndexName, catalogue.origin->index->info.text});
  }
  for (const CarriedFile& file : catalogue.carried) plan->carried.push_back(file.name);
  return {};
}

void MergeForm::Note(Planning* p) const {
  if (!p->view->skipped.empty()) p->notes.push_back("left out of the run: " + p->view->skipped);
}

std::string MergeForm::WhyUnread(const Planning& p, uint32_t array) const {
  const bool of_run = p.stored.arrays[array].name.starts_with(kRunPrefix);
  return of_run ? "the reference has no place for it, or a replica" : "the run's values take its place";
}

}  // namespace mimo
