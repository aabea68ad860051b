#include "lib/forms/engine/share_out.h"

#include <algorithm>
#include <numeric>

#include "lib/forms/engine/engine_targets.h"
#include "lib/forms/refusals.h"
#include "lib/layout/partition.h"
#include "lib/model/role_groups.h"

namespace mimo {
namespace {

constexpr int64_t kBlock = 128;  // of a release's FP8

// Rows that one part of a weight must be a multiple of: rows of some, columns of others are cut.
Result<int64_t> GroupOf(Planning* p, const Weight& weight) {
  const ModelConfig& config = p->catalogue.config;
  const int64_t stored = weight.in_blocks() ? std::lcm(config.block_rows, config.block_cols) : 32;
  if (p->chooser.keeps()) return stored;
  const std::string name = NameOfPart(p->catalogue.arrays[weight.array].name, Part::kWeight);
  MIMO_ASSIGN_OR_RETURN(const Choice choice, ChooseStorage(p, weight, weight.id, name));
  if (choice.kind != Choice::Kind::kEncode) return choice.moves() ? stored : int64_t{32};
  const kernels::Encoding& encoding = choice.encoding;
  if (!HasBlockScales(encoding.codec)) return int64_t{32};
  return std::lcm<int64_t>(encoding.block_rows, encoding.block_cols);
}

bool IsAttentionOutput(Role role) {
  return role == Role::kAttnO;
}

// Whether there is a weight of some roles: config.json has widths that no tensor has.
bool Stores(const Planning& p, bool (*is_one)(Role)) {
  return std::any_of(p.inventory.weights.begin(), p.inventory.weights.end(),
                     [is_one](const Weight& weight) { return is_one(weight.id.role); });
}

// The same for all weights of some roles. One rank cuts nothing, and takes a last block that is not whole.
Result<int64_t> GroupOf(Planning* p, bool (*is_one)(Role)) {
  if (p->options.tp == 1) return 1;
  int64_t group = 32;
  for (const Weight& weight : p->inventory.weights) {
    if (!is_one(weight.id.role)) continue;
    MIMO_ASSIGN_OR_RETURN(const int64_t own, GroupOf(p, weight));
    group = std::lcm(group, own);
  }
  return group;
}

Status CheckExpertRanks(int64_t experts, int64_t tp, int64_t ep) {
  if (ep != 1 && ep != tp)
    return UsageError("engines place experts on the ranks of --tp, or on none")
        .Expected("--ep 1 or --ep " + std::to_string(tp))
        .Found("--ep " + std::to_string(ep))
        .Advice("more expert ranks come from data parallelism, which files cannot name");
  if (ep == 1 || experts % ep == 0) return {};
  int64_t nearest = ep;
  while (experts % nearest != 0) --nearest;
  return UsageError("the experts cannot be placed on " + std::to_string(ep) + " ranks")
      .Expected("a divisor of " + std::to_string(experts) + " experts")
      .Found("--ep " + std::to_string(ep))
      .Advice("--ep 1, or --tp " + std::to_string(nearest) + " --ep " + std::to_string(nearest));
}

// Whether Q or K has one norm over all heads, whose mean square counts zeros.
bool NormsAllHeads(const Planning& p) {
  return std::any_of(p.inventory.weights.begin(), p.inventory.weights.end(), [&](const Weight& weight) {
    if (weight.id.role != Role::kAttnQNorm && weight.id.role != Role::kAttnKNorm) return false;
    const TensorRule* rule = p.catalogue.table->RuleOf(weight.id);
    return rule != nullptr && rule->shape != std::vector<std::string>{"head_dim"};
  });
}

Status CheckBlocks(const ModelConfig& model, const std::string& what, int64_t rows, int64_t tp, int64_t group,
                   bool padded) {
  if (rows % (tp * group) == 0) return {};
  int64_t nearest = tp;
  while (nearest > 1 && (rows % (nearest * group) != 0 || !CheckTensorParallel(model, nearest, 1).ok())) --nearest;
  std::string advice = "--tp " + std::to_string(nearest);
  if (what == "experts") advice += ", or --ep " + std::to_string(tp) + " to place experts whole";
  if (!padded) advice += ", or --pad, which adds zero rows and columns";
  return UsageError("the " + what + " cannot be cut into " + std::to_string(tp) + " parts of whole blocks")
      .Expected("a multiple of " + std::to_string(tp) + " x " + std::to_string(group) + " rows")
      .Found(std::to_string(rows) + " rows")
      .Advice(advice);
}

}  // namespace

Status ShareOut(Planning* p, const SmallerBlocks& smaller) {
  const int64_t tp = p->options.tp, ep = std::max<int64_t>(p->options.ep, 1);
  const bool pad = p->options.pad;
  const bool all_heads = NormsAllHeads(*p);
  ModelConfig& model = p->target.model;
  MIMO_ASSIGN_OR_RETURN(const int64_t dense, GroupOf(p, IsDenseMlp));
  MIMO_ASSIGN_OR_RETURN(const int64_t outputs, GroupOf(p, IsAttentionOutput));
  MIMO_ASSIGN_OR_RETURN(const int64_t shared, GroupOf(p, IsSharedExpert));
  int64_t experts = 1;
  if (ep == 1) {
    MIMO_ASSIGN_OR_RETURN(experts, GroupOf(p, IsExpert));
  }
  MIMO_RETURN_IF_ERROR(CheckExpertRanks(p->catalogue.config.experts, tp, ep));
  if (pad) {
    // Shared experts are as wide as so many of the others.
    ModelConfig padded = PaddedConfig(model, tp, dense, std::lcm(shared, experts));
    if (!Stores(*p, IsDenseMlp)) padded.intermediate = model.intermediate;
    if (ep > 1) padded.moe_intermediate = model.moe_intermediate;
    padded.vocab = RoundUp(padded.vocab, std::lcm<int64_t>(64, tp));  // vocabularies are padded to 64, and cut then
    if (RoundUp(model.vocab, 64) % tp == 0) padded.vocab = model.vocab;
    if (all_heads) {
      padded.global = model.global;
      padded.window = model.window;
    }
    model = std::move(padded);
  }
  Status fits = CheckTensorParallel(model, tp, ep > 1 ? 1 : tp);
  if (!fits.ok()) {
    Error e = fits.TakeError();
    if (all_heads && pad)
      e.found +=
          "; heads of this model cannot be padded: the norms of Q and K are over all heads, and zeros would "
          "lower their mean square";
    else if (!pad && !all_heads)
      e.advice += std::string(e.advice.empty() ? "" : ", ") + "or --pad, which adds zero heads and columns";
    return e;
  }
  if (!PadsVocabulary(TargetWord(p->options)) && RoundUp(model.vocab, 64) % tp != 0)
    return UsageError("the vocabulary cannot be cut into " + std::to_string(tp) + " parts")
        .Expected("a multiple of " + std::to_string(tp) + " once it is padded to a multiple of 64")
        .Found(std::to_string(model.vocab) + " rows")
        .Advice("--pad, which adds rows of zeros");
  if (Stores(*p, IsDenseMlp))
    MIMO_RETURN_IF_ERROR(CheckBlocks(model, "dense layers", model.intermediate, tp, dense, pad));
  if (Stores(*p, IsSharedExpert))  // of which every rank has a part, wherever the others are
    MIMO_RETURN_IF_ERROR(
        CheckBlocks(model, "shared experts", model.shared_experts * model.moe_intermediate, tp, shared, pad || ep > 1));
  if (outputs > 32)
    for (const AttentionShape& shape : AttentionShapes(*p))
      MIMO_RETURN_IF_ERROR(CheckBlocks(model, "attention outputs", shape.heads * shape.v_head_dim, tp, outputs, true));
  if (ep > 1) return {};
  const bool repeats = smaller.rows > 0 && experts == kBlock && model.hidden % smaller.rows == 0 &&
                       model.moe_intermediate % kBlock == 0 && model.moe_intermediate % (tp * experts) != 0;
  MIMO_RETURN_IF_ERROR(
      CheckBlocks(model, "experts", model.moe_intermediate, tp, repeats ? smaller.rows : experts, pad));
  if (repeats)
    p->notes.push_back(std::to_string(model.moe_intermediate / tp) + " rows of each expert to a rank cut blocks of " +
                       std::to_string(experts) + ": " + smaller.note);
  return {};
}

}  // namespace mimo
