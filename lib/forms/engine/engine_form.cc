#include "lib/forms/engine/engine_form.h"

#include <algorithm>

#include "lib/forms/engine/share_out.h"
#include "lib/forms/fp8_scales.h"
#include "lib/forms/refusals.h"
#include "lib/model/family.h"
#include "lib/plan/words.h"

namespace mimo {
namespace {

// How many chunks fused attention has follows from the ranks and the model.
AttentionStorage StorageOf(EngineAttention attention) {
  switch (attention) {
    case EngineAttention::kFusedByRanks:
    case EngineAttention::kFusedByKvHeads:
      return AttentionStorage::kFused;
    case EngineAttention::kSplit:
      return AttentionStorage::kSplit;
    case EngineAttention::kBf16:
      break;
  }
  return AttentionStorage::kBf16;
}

// Whether the rows of Q of every rank are whole blocks: else the loaders of split files cannot name where K begins.
bool WholeQBlocks(const Planning& p) {
  for (const AttentionShape& s : AttentionShapes(p))
    if (s.q_rows() / p.options.tp % p.target.block_rows != 0) return false;
  return true;
}

bool WholeKvBlocks(const Planning& p) {
  for (const AttentionShape& s : AttentionShapes(p))
    if (std::max(s.kv_heads / p.options.tp, int64_t{1}) * s.head_dim % p.target.block_rows != 0) return false;
  return true;
}

// Split FP8 that already lies on the grid which loaders index at this TP.
bool LoadsAsItIs(const Planning& p) {
  const ModelConfig& config = p.catalogue.config;
  const QkvLayout wanted{QkvKind::kSplit, p.options.tp};
  if (p.layout.layout.fused() || p.target.resizes(config) || p.target.block_rows != config.block_rows ||
      !p.target.keeps_fp8 || !WholeQBlocks(p) || !Fits(p, wanted))
    return false;
  for (const AttentionShape& s : AttentionShapes(p)) {
    const QkvMap stored = BuildQkvMap(p.layout.layout, s, config.block_rows);
    if (stored.bands != BuildQkvMap(wanted, s, config.block_rows).bands) return false;
  }
  return true;
}

// Attention that keeps its blocks, stored as asked for or as the engine wants it.
Status ChooseBlocks(AttentionStorage attention, Planning* p) {
  Target* target = &p->target;
  const int64_t tp = p->options.tp;
  const std::string wish = "--tp " + std::to_string(tp);
  // Engines take the chunk count from num_key_value_heads, which cannot be below what the model has.
  const QkvLayout fused{QkvKind::kFused, std::max(tp, target->model.global.kv_heads)}, split{QkvKind::kSplit, tp};
  if (attention != AttentionStorage::kBf16 && p->options.on_straddle == StraddlePolicy::kBf16) {
    const QkvLayout& layout = attention == AttentionStorage::kSplit ? split : fused;
    if (Fits(*p, layout) && AnyStraddles(*p, layout)) {
      attention = AttentionStorage::kBf16;
      p->notes.push_back("blocks would straddle: attention of all layers becomes BF16 (--on-straddle bf16)");
    }
  }
  if (attention == AttentionStorage::kBf16) {
    target->qkv = kOwnGrids;
    target->decodes = true;
    target->keeps_fp8 = false;
    return {};
  }
  if (attention != AttentionStorage::kSplit) {
    target->qkv = fused;
    MIMO_RETURN_IF_ERROR(CheckNamed(*p, "--attention fused"));
    return CheckFits(*p, wish);
  }
  if (!WholeQBlocks(*p))
    return UsageError("split FP8 attention cannot be expressed at TP " + std::to_string(tp))
        .Expected("Q rows per rank in whole blocks of " + std::to_string(target->block_rows))
        .Found(std::to_string(target->model.global.q_rows() / tp) + " Q rows per rank, so that K shares a block with Q")
        .Advice("--attention fused, or --tp " + std::to_string(tp / 2));
  target->qkv = split;
  if (SameAsIndependent(*p)) target->qkv = kOwnGrids;
  return CheckFits(*p, wish);
}

// "0 to 47, mtp 0": layers as short as can be.
std::string LayersOf(const std::vector<Straddling>& straddling) {
  std::string text;
  for (size_t i = 0; i < straddling.size();) {
    const Straddling& first = straddling[i];
    size_t end = i + 1;
    while (end < straddling.size() && straddling[end].mtp == first.mtp &&
           straddling[end].layer == straddling[end - 1].layer + 1)
      ++end;
    text += (text.empty() ? "" : ", ") + std::string(first.mtp ? "mtp " : "") + std::to_string(first.layer);
    if (end - i > 1) text += " to " + std::to_string(straddling[end - 1].layer);
    i = end;
  }
  return text;
}

}  // namespace

bool EngineForm::IsAskedFor(const PlanOptions& options) const {
  return IsEngine(TargetWord(options));
}

Status EngineForm::Check(const Planning& p) const {
  return CheckEach(p, {RefuseFormat, RefuseIteration, RefuseTemplate, RequireRanks, RefuseTrainingTopology,
                       RefuseExpertCodes, RefuseRanks, CheckFold, RefuseQkv});
}

Result<EngineTarget> EngineForm::TargetOf(const Planning& p) {
  const PlanOptions& options = p.options;
  Facts facts;
  facts["tp"] = options.tp;
  facts["heads"] = p.target.model.global.heads;
  facts["kv_heads"] = p.target.model.global.kv_heads;
  facts["swa_kv_heads"] = p.target.model.window.kv_heads;
  facts["q_rows_per_rank_blocks"] = std::string(WholeQBlocks(p) ? "whole" : "cut");
  facts["kv_rows_per_rank_blocks"] = std::string(WholeKvBlocks(p) ? "whole" : "cut");
  MIMO_ASSIGN_OR_RETURN(EngineTarget engine, ChooseEngineTarget(TargetWord(options), options.engine_version,
                                                                p.catalogue.config.family->name, facts));
  const std::pair blocks(options.fp8_block_rows, p.catalogue.config.block_cols);
  const auto& taken = engine.fp8_blocks;
  if (options.fp8_block_rows > 0 && std::find(taken.begin(), taken.end(), blocks) == taken.end())
    return UsageError(engine.text + " does not take these blocks")
        .Expected("128x128")
        .Found(std::to_string(blocks.first) + "x" + std::to_string(blocks.second));
  return engine;
}

Status EngineForm::Aim(const Choice&, Planning* p) const {
  Target* target = &p->target;
  MIMO_RETURN_IF_ERROR(ShareOut(
      p, SmallerExpertBlocks(TargetWord(p->options), p->options.engine_version, p->catalogue.config.family->name)));
  MIMO_ASSIGN_OR_RETURN(const EngineTarget engine, TargetOf(*p));
  const std::string at = engine.text + " at TP " + std::to_string(p->options.tp);
  const bool automatic = p->options.attention == AttentionStorage::kAuto;
  if (automatic && LoadsAsItIs(*p)) {
    target->qkv = p->layout.layout;
    p->notes.push_back(at + " verbatim: split on the grid of its ranks");
    return {};
  }
  const Weight* odd = KeptInRows(*p);
  if (!target->keeps_fp8) {
    target->qkv = kOwnGrids;
    p->notes.push_back(at + (odd == nullptr ? ": unquantized q, k and v load as they are"
                                            : ": q, k and v with scales of rows or tensors stay apart"));
    return {};
  }
  if (odd != nullptr) return NoPlaceFor(p->catalogue, *odd, "blocks of attention for " + engine.text);
  const AttentionStorage wanted = StorageOf(engine.attention);
  AttentionStorage attention = automatic ? wanted : p->options.attention;
  if (attention == AttentionStorage::kFused && MixedAttention(*p)) {
    // Chunks are read by their scales; without, fused attention is taken for plain [Q;K;V].
    if (!automatic)
      return UsageError(engine.text + " misreads unquantized fused attention, which some layers have")
          .Expected("--attention auto, split or bf16")
          .Found("--attention fused");
    attention = WholeQBlocks(*p) ? AttentionStorage::kSplit : AttentionStorage::kBf16;
    p->notes.push_back("attention is quantized in some layers only: it is stored " +
                       std::string(WordOf(kAttentionStorages, attention)) + ", which " + engine.text +
                       " reads layer by layer");
  }
  if (attention == wanted) p->notes.push_back(at + " " + engine.load + (engine.note.empty() ? "" : ": " + engine.note));
  return ChooseBlocks(attention, p);
}

std::string EngineForm::InsteadOfStraddling(const Planning&) const {
  return "--on-straddle bf16 stores values";
}

void EngineForm::Note(Planning* p) const {
  Form::Note(p);
  const std::vector<Straddling>& straddling = p->losses.straddling;
  if (straddling.empty()) return;
  uint64_t blocks = 0, of = 0;
  for (const Straddling& s : straddling) {
    blocks += s.blocks;
    of += s.of;
  }
  p->notes.push_back(std::to_string(blocks) + " of " + std::to_string(of) + " FP8 blocks of q, k and v in layers " +
                     LayersOf(straddling) +
                     " take elements from under several scales of the source and are re-quantized: " +
                     InsteadOfStraddling(*p) + ", --on-straddle refuse refuses");
}

}  // namespace mimo
