#include "lib/planner/notes.h"

#include "lib/form/hf.h"

namespace mimo {
namespace {

void AddNeuronNotes(const PlanOptions& options, std::vector<std::string>* out) {
  std::vector<std::string>& notes = *out;
  notes.push_back("MTP layers and towers are dropped: Neuron's form has no place for them");
  if (options.dtype != DTypeChoice::kKeep)
    notes.push_back("NxDI renames the router's bias only when neuron_config.quantized is set: check that it is loaded");
  else if (options.attention != AttentionStorage::kBf16)
    notes.push_back(
        "the published V2.5-Pro scripts keep q, k and v in BF16 (--attention bf16), for FP8 did not work there");
}

}  // namespace

void AddNotes(const PlanNotes& n, std::vector<std::string>* out) {
  std::vector<std::string>& notes = *out;
  const PlanOptions& options = n.options;
  const QkvLayout& qkv = n.target.qkv;
  const AttentionShape& global = n.target.model.global;
  const bool directory = !options.format;
  if (n.verdict.assumed)
    notes.push_back("the source layout " + n.verdict.layout.ToString() + " is assumed by the documented rule (" +
                    n.verdict.basis + "); --source-qkv overrides it");
  if (directory && qkv.fused() && !n.target.keeps_fp8)
    notes.push_back("engines read unquantized fused QKV as plain [Q;K;V]: --qkv split is what they load");
  if (options.to == TargetKind::kHf && qkv.fused() && n.target.keeps_fp8 && qkv != n.verdict.layout &&
      qkv.chunks < global.kv_heads)
    notes.push_back("released engines take the chunk count from num_key_value_heads (" +
                    std::to_string(global.kv_heads) + "): " + qkv.ToString() +
                    " needs a reader that takes it from tp_size or mimo_layout");
  if (directory && qkv.fused() && StoredKvHeads(qkv, global) != global.kv_heads)
    notes.push_back("KV heads are replicated: config.json says " + std::to_string(StoredKvHeads(qkv, global)) +
                    " KV heads, each rank at TP " + std::to_string(qkv.chunks) + " takes its chunk as it is");
  if (n.straddling_layers > 0 && options.on_straddle == StraddlePolicy::kBf16)
    notes.push_back("attention of " + std::to_string(n.straddling_layers) +
                    " layers becomes BF16 (--on-straddle bf16)");
  if (n.maybe_exact > 0)
    notes.push_back(
        std::to_string(n.maybe_exact) +
        " weights should take an exact path: their scales are powers of two; the manifest counts the blocks that do");
  if (const Recipe* recipe = n.recipe; recipe != nullptr && !recipe->engines.empty()) {
    std::string engines;
    for (const RecipeEngine& engine : recipe->engines)
      engines += (engines.empty() ? "" : ", ") + engine.name + " " + engine.status;
    notes.push_back("recipe " + recipe->name + ": " + engines + " (docs/recipes.md says why)");
  }
  if (options.to == TargetKind::kNxdi) AddNeuronNotes(options, out);
  if (n.resizes && options.pad) {
    const ModelConfig& m = n.target.model;
    notes.push_back("zeros added for TP " + std::to_string(options.tp) + ": " + std::to_string(m.global.heads) +
                    " Q heads, " + std::to_string(m.global.kv_heads) + " and " + std::to_string(m.window.kv_heads) +
                    " KV heads, intermediate " + std::to_string(m.intermediate) + " and " +
                    std::to_string(m.moe_intermediate) + ", vocabulary " + std::to_string(m.vocab));
  }
}

}  // namespace mimo
