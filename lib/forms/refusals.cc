#include "lib/forms/refusals.h"

#include "lib/plan/words.h"

namespace mimo {

std::string TargetWord(const PlanOptions& options) {
  return std::string(WordOf(kTargets, options.to));
}

Status CheckEach(const Planning& p, std::initializer_list<Status (*)(const Planning&)> checks) {
  for (const auto check : checks) MIMO_RETURN_IF_ERROR(check(p));
  return {};
}

Status RefuseFormat(const Planning& p) {
  if (!p.options.format) return {};
  return UsageError("not a format of this target")
      .Expected("sharded-state")
      .Found("--format " + std::string(WordOf(kForms, *p.options.format)));
}

Status RefuseIteration(const Planning& p) {
  if (p.options.iteration == 0) return {};
  return UsageError("--iteration belongs to Megatron").Expected("--to megatron").Found("--to " + TargetWord(p.options));
}

Status RefuseTemplate(const Planning& p) {
  if (p.options.form_template.empty()) return {};
  return UsageError("--template names the arrays of rank files")
      .Expected("--format sharded-state")
      .Found("--format " + std::string(WordOf(kForms, p.options.format.value_or(FormKind::kHf))));
}

Status RefuseEngineOptions(const Planning& p, AttentionStorage taken) {
  const PlanOptions& o = p.options;
  const bool attention_goes = o.attention == AttentionStorage::kAuto || o.attention == taken;
  if (o.tp == 0 && o.ep == 0 && !o.pad && o.engine_version.empty() && attention_goes) return {};
  return UsageError("--tp, --ep, --pad, --attention and --engine-version belong to an engine")
      .Expected("--to vllm or --to sglang")
      .Found("--to " + TargetWord(o));
}

Status RequireRanks(const Planning& p) {
  if (p.options.tp != 0) return {};
  return UsageError("--to " + TargetWord(p.options) + " needs to know the ranks").Expected("--tp N").Found("none");
}

Status RefuseTrainingTopology(const Planning& p) {
  if (p.options.pp > 1)
    return UsageError("this form cannot name pipeline stages")
        .Expected("--pp 1: each stage loads the layers that it needs")
        .Found("--pp " + std::to_string(p.options.pp));
  if (p.options.etp > 1)
    return UsageError("engines cut experts by --tp or place them whole by --ep")
        .Expected("no --etp")
        .Found("--etp " + std::to_string(p.options.etp));
  return {};
}

Status RefuseShardSize(const Planning& p) {
  if (p.options.max_shard_bytes == 0) return {};
  return UsageError("the files of this form are cut by layer").Expected("no --max-shard-size").Found("one");
}

Status RefuseExpertCodes(const Planning& p) {
  if (p.options.router_bias)
    return UsageError("--router-bias speaks of Neuron's routers")
        .Expected("--to nxdi")
        .Found("--to " + TargetWord(p.options));
  if (!p.options.expert_codes) return {};
  return UsageError("--expert-codes speaks of Neuron's FP8")
      .Expected("--to nxdi")
      .Found("--to " + TargetWord(p.options));
}

Status RefuseRanks(const Planning& p) {
  if (p.options.ranks.empty()) return {};
  return UsageError("--ranks chooses among rank files").Expected("--format sharded-state").Found("none");
}

Status RefuseQkv(const Planning& p) {
  if (p.options.qkv.kind == QkvWish::Kind::kKeep) return {};
  return UsageError("--qkv and --to contradict each other")
      .Expected("--attention fused|split|bf16 with --to vllm or sglang")
      .Found("--qkv " + p.options.qkv.text);
}

Status CheckFold(const Planning& p) {
  const bool keeps = !p.options.recipe && p.options.dtype == DTypeChoice::kKeep;
  if (p.options.fold_value_scale == FoldInto::kV && p.catalogue.config.scale_fmt == "ue8m0" && keeps)
    return UsageError("scales that are powers of two cannot take in the value scale")
        .Expected("--fold-value-scale o")
        .Found("--fold-value-scale v");
  if (p.options.fold_value_scale && !p.catalogue.config.value_scale)
    return UsageError("there is no value scale to fold").Expected("attention_value_scale in config.json").Found("none");
  return {};
}

}  // namespace mimo
