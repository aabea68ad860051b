#include "lib/forms/engine/share_out.h"

#include <algorithm>
#include <numeric>

#include "lib/forms/engine/engine_targets.h"
#include "lib/forms/refusals.h"
#include "lib/layout/partition.h"
#include "lib/model/role_groups.h"

namespace mimo {
namespace {

// Rows that one part of a weight must be a multiple of: rows of some, columns of others are cut.
Result<int64_t> GroupOf(Planning* p, const Weight& weight) {
  const ModelConfig& config = p->catalogue.config;
  const int64_t stored = HasBlockGrid(weight.storage) ? std::lcm(config.block_rows, config.block_cols) : 32;
  if (p->chooser.keeps()) return stored;
  const std::string name = NameOfPart(p->catalogue.arrays[weight.array].name, Part::kWeight);
  MIMO_ASSIGN_OR_RETURN(const Choice choice, ChooseStorage(p, weight, weight.id, name));
  if (choice.kind != Choice::Kind::kEncode) return choice.moves() ? stored : int64_t{32};
  const kernels::Encoding& encoding = choice.encoding;
  if (!HasBlockScales(encoding.codec)) return int64_t{32};
  return std::lcm<int64_t>(encoding.block_rows, encoding.block_cols);
}

// The same for all experts, or all dense layers.
Result<int64_t> GroupOf(Planning* p, bool experts) {
  int64_t group = 32;
  for (const Weight& weight : p->inventory.weights) {
    if (experts ? !IsExpert(weight.id.role) : !IsDenseMlp(weight.id.role)) continue;
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

Status CheckBlocks(const std::string& what, int64_t rows, int64_t tp, int64_t group, bool padded) {
  if (rows % (tp * group) == 0) return {};
  int64_t nearest = tp;
  while (nearest > 1 && rows % (nearest * group) != 0) --nearest;
  std::string advice = "--tp " + std::to_string(nearest);
  if (what == "experts") advice += ", or --ep " + std::to_string(tp) + " to place experts whole";
  if (!padded) advice += ", or --pad, which adds zero rows and columns";
  return UsageError("the " + what + " cannot be cut into " + std::to_string(tp) + " parts of whole blocks")
      .Expected("a multiple of " + std::to_string(tp) + " x " + std::to_string(group) + " rows")
      .Found(std::to_string(rows) + " rows")
      .Advice(advice);
}

}  // namespace

Status ShareOut(Planning* p) {
  const int64_t tp = p->options.tp, ep = std::max<int64_t>(p->options.ep, 1);
  const bool pad = p->options.pad;
  ModelConfig& model = p->target.model;
  MIMO_ASSIGN_OR_RETURN(const int64_t dense, GroupOf(p, false));
  int64_t experts = 1;
  if (ep == 1) {
    MIMO_ASSIGN_OR_RETURN(experts, GroupOf(p, true));
  }
  MIMO_RETURN_IF_ERROR(CheckExpertRanks(p->catalogue.config.experts, tp, ep));
  if (pad) {
    ModelConfig padded = PaddedConfig(model, tp, dense, experts);
    if (ep > 1) padded.moe_intermediate = model.moe_intermediate;
    padded.vocab = RoundUp(padded.vocab, std::lcm<int64_t>(64, tp));  // vocabularies are padded to 64, and cut then
    if (RoundUp(model.vocab, 64) % tp == 0) padded.vocab = model.vocab;
    model = std::move(padded);
  }
  Status fits = CheckTensorParallel(model, tp, ep > 1 ? 1 : tp);
  if (!fits.ok()) {
    Error e = fits.TakeError();
    if (!pad) e.advice += std::string(e.advice.empty() ? "" : ", ") + "or --pad, which adds zero heads and columns";
    return e;
  }
  if (!PadsVocabulary(TargetWord(p->options)) && RoundUp(model.vocab, 64) % tp != 0)
    return UsageError("the vocabulary cannot be cut into " + std::to_string(tp) + " parts")
        .Expected("a multiple of " + std::to_string(tp) + " once it is padded to a multiple of 64")
        .Found(std::to_string(model.vocab) + " rows")
        .Advice("--pad, which adds rows of zeros");
  MIMO_RETURN_IF_ERROR(CheckBlocks("dense layers", model.intermediate, tp, dense, pad));
  return ep > 1 ? Status() : CheckBlocks("experts", model.moe_intermediate, tp, experts, pad);
}

}  // namespace mimo
