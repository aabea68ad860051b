#include "lib/forms/megatron/torch_dist_form.h"

#include "lib/forms/hf/hf_config.h"
#include "lib/forms/megatron/megatron_store.h"
#include "lib/forms/open_view.h"
#include "lib/forms/refusals.h"
#include "lib/io/torch/container.h"
#include "lib/model/role_groups.h"

namespace mimo {

Result<bool> TorchDistForm::RecognisesDirectory(FileSystem& fs, const std::string& root) const {
  MIMO_ASSIGN_OR_RETURN(const auto place, FindMegatron(fs, root));
  return place.has_value();
}

Status TorchDistForm::Open(FileSystem& fs, const std::string& root, const OpenOptions& options,
                           OpenedCheckpoint* opened) const {
  MIMO_ASSIGN_OR_RETURN(const auto place, FindMegatron(fs, root));
  if (!place)
    return BadInput("config.json speaks of Megatron's form")
        .File(root)
        .Expected("latest_checkpointed_iteration.txt, or .metadata, beside it")
        .Found("neither");
  Catalogue reference;
  const Catalogue* like = options.like;
  if (!options.like_root.empty()) {
    MIMO_ASSIGN_OR_RETURN(reference, OpenCatalogue(fs, options.like_root));
    like = &reference;
  }
  MIMO_RETURN_IF_ERROR(RefuseSourceQkv(options));
  MIMO_ASSIGN_OR_RETURN(MegatronStore store, OpenMegatron(fs, root, *place, like));
  MIMO_ASSIGN_OR_RETURN(View view, ViewOfMegatron(store, options.gate_up));
  if (!store.skipped.empty())
    view.skipped = std::to_string(store.skipped.size()) + " keys of training state (" + store.skipped[0] + " ...)";
  opened->checkpoint.stored = std::move(store.stored);
  return OpenView(fs, std::move(view), kOwnGrids, "Megatron's linear_qkv",
                  "a Megatron checkpoint (" + std::string(WordOf(kForms, store.format)) + "): fused(G) of each layer",
                  opened);
}

void TorchDistForm::Complete(PlanOptions* options) const {
  if (options->dtype == DTypeChoice::kKeep && !options->recipe) options->dtype = DTypeChoice::kBf16;
  if (options->format == kind()) options->format.reset();  // the usual one
}

Status TorchDistForm::Check(const Planning& p) const {
  const PlanOptions& options = p.options;
  if (options.format)
    return UsageError("not a format of Megatron's")
        .Expected("--format torch_dist")
        .Found("--format " + std::string(WordOf(kForms, *options.format)));
  MIMO_RETURN_IF_ERROR(RefuseTemplate(p));
  if (options.dtype == DTypeChoice::kKeep || options.recipe)
    return UsageError("Megatron holds values, not codes")
        .Expected("--dtype bf16, fp16 or fp32")
        .Found("another")
        .Advice("Megatron -> HF quantizes: --like, or --to hf and a recipe in a second run");
  if (options.qkv.kind != QkvWish::Kind::kKeep)
    return UsageError("Megatron has one layout of attention").Expected("no --qkv").Found("--qkv " + options.qkv.text);
  if (options.max_shard_bytes > 0 || !options.ranks.empty() || !options.engine_version.empty() ||
      options.attention != AttentionStorage::kAuto || options.expert_codes || options.router_bias ||
      options.fp8_block_rows > 0)
    return UsageError("an option that does not go with Megatron")
        .Expected(
            "none of --max-shard-size, --ranks, --engine-version, --attention, --expert-codes, --router-bias, "
            "--fp8-block")
        .Found("one of them");
  if (options.fold_value_scale)
    return UsageError("Megatron-Bridge applies attention_value_scale itself")
        .Expected("no --fold-value-scale")
        .Found("one");
  if (options.unknown == UnknownPolicy::kCarry)
    return UsageError("Megatron has no place for unknown tensors").Expected("--unknown drop").Found("--unknown carry");
  const int64_t experts = p.catalogue.config.experts;
  if (options.ep > 1 && experts % options.ep != 0)
    return UsageError("the experts cannot be placed on these ranks")
        .Expected("a divisor of " + std::to_string(experts))
        .Found("--ep " + std::to_string(options.ep));
  return {};
}

std::string TorchDistForm::WhyDropped(const Planning& p, const TensorId& id) const {
  const std::string why = Form::WhyDropped(p, id);
  return why.empty() && IsTower(id.role) ? "Megatron's model has no towers" : why;
}

PlacementOptions TorchDistForm::Place(Planning* p) const {
  PlacementOptions placement = Form::Place(p);
  placement.container = &TorchItemsContainer();
  return placement;
}

void TorchDistForm::Amend(const Planning& p, HfDescription* description) const {
  if (RouterIsBf16(p)) description->marker.router = DType::kBF16;
}

}  // namespace mimo
