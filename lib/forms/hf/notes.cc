// Notes that every form shares.
#include "lib/forms/form.h"
#include "lib/forms/fp8_scales.h"
#include "lib/forms/hf/hf_config.h"

namespace mimo {

std::string Form::InsteadOfStraddling(const Planning&) const {
  return "choose another --qkv, or --on-straddle requant|bf16";
}

void Form::Note(Planning* p) const {
  std::vector<std::string>& notes = p->notes;
  const FormTraits traits = p->form.traits();
  const Target& target = p->target;
  const Recipe* recipe = p->chooser.recipe();
  const PlanOptions& options = p->options;
  const QkvLayout& qkv = target.qkv;
  const AttentionShape& global = target.model.global;
  if (p->layout.assumed)
    notes.push_back("the source layout " + p->layout.layout.ToString() + " is assumed by " + p->layout.basis +
                    " alone, which the data neither bears out nor contradicts; --source-qkv overrides it");
  if (traits.index && qkv.fused() && !target.keeps_fp8 && KeptInRows(*p) == nullptr)
    notes.push_back("engines read unquantized fused QKV as plain [Q;K;V]: --qkv split is what they load");
  if (traits.plain && qkv.fused() && target.keeps_fp8 && qkv != p->layout.layout && qkv.chunks < global.kv_heads)
    notes.push_back("released engines take the chunk count from num_key_value_heads (" +
                    std::to_string(global.kv_heads) + "): " + qkv.ToString() +
                    " needs a reader that takes it from tp_size or mimo_layout");
  if (traits.index && qkv.fused() && StoredKvHeads(qkv, global) != global.kv_heads)
    notes.push_back("KV heads are replicated: config.json says " + std::to_string(StoredKvHeads(qkv, global)) +
                    " KV heads, each rank at TP " + std::to_string(qkv.chunks) + " takes its chunk as it is");
  if (p->view != nullptr) notes.insert(notes.end(), p->view->notes.begin(), p->view->notes.end());
  if (p->losses.decoded_layers > 0)
    notes.push_back("attention of " + std::to_string(p->losses.decoded_layers) +
                    " layers becomes BF16 (--on-straddle bf16)");
  if (p->losses.maybe_exact > 0)
    notes.push_back(
        std::to_string(p->losses.maybe_exact) +
        " weights should take an exact path: their scales are powers of two; the manifest counts the blocks that do");
  if (const auto& marker = p->catalogue.config.marker; marker && marker->centred)
    notes.push_back("the router biases of the source lack their mean (--router-bias centred), and so do these");
  if (recipe != nullptr && !recipe->engines.empty()) {
    std::string engines;
    for (const RecipeEngine& engine : recipe->engines)
      engines += (engines.empty() ? "" : ", ") + engine.name + " " + engine.status;
    notes.push_back("recipe " + recipe->name + ": " + engines + " (docs/recipes.md says why)");
  }
  if (p->chooser.keeps_row_matrices())
    notes.push_back(
        "FP8 with a scale per row keeps scales of [rows, 1], where ModelOpt and its readers have [rows]: --dialect "
        "compressed-tensors describes what is stored (docs/recipes.md)");
  if (target.resizes(p->catalogue.config) && options.pad) {
    const ModelConfig& m = target.model;
    notes.push_back("zeros added for TP " + std::to_string(options.tp) + ": " + std::to_string(m.global.heads) +
                    " Q heads, " + std::to_string(m.global.kv_heads) + " and " + std::to_string(m.window.kv_heads) +
                    " KV heads, intermediate " + std::to_string(m.intermediate) + " and " +
                    std::to_string(m.moe_intermediate) + ", vocabulary " + std::to_string(m.vocab));
  }
}

}  // namespace mimo
