#include "lib/forms/ranks/sharded_state_form.h"

#include <algorithm>

#include "lib/forms/engine/share_out.h"
#include "lib/forms/hf/hf_config.h"
#include "lib/forms/open_view.h"
#include "lib/forms/ranks/rank_cache_scales.h"
#include "lib/forms/ranks/rank_view.h"
#include "lib/forms/refusals.h"
#include "lib/model/family.h"
#include "lib/plan/words.h"

namespace mimo {

bool ShardedStateForm::Recognises(const Catalogue& stored) const {
  return std::any_of(stored.arrays.begin(), stored.arrays.end(),
                     [](const StoredArray& array) { return HeaderName(array.name) != array.name; });
}

Result<std::optional<View>> ShardedStateForm::Show(const Catalogue& stored) const {
  MIMO_ASSIGN_OR_RETURN(View view, ViewOfRanks(stored));
  return std::optional<View>(std::move(view));
}

Status ShardedStateForm::Open(FileSystem& fs, const std::string&, const OpenOptions& options,
                              OpenedCheckpoint* opened) const {
  MIMO_RETURN_IF_ERROR(RefuseSourceQkv(options));
  const Catalogue& stored = opened->checkpoint.stored;
  MIMO_ASSIGN_OR_RETURN(const RankForm form, RankForm::Load("vllm", stored.config.family->name, ""));
  MIMO_ASSIGN_OR_RETURN(const std::set<std::string> cache_scales, FilledCacheScales(fs, stored, form));
  MIMO_ASSIGN_OR_RETURN(View view, ViewOfRanks(stored, cache_scales));
  const int64_t chunks = view.chunks;
  return OpenView(fs, std::move(view), {QkvKind::kFused, chunks}, BasisOf(stored),
                  "files of " + std::to_string(chunks) + " ranks, chunk r is rank r's", opened);
}

Status ShardedStateForm::Check(const Planning& p) const {
  const PlanOptions& options = p.options;
  if (options.to == TargetKind::kSglang)
    return UsageError("SGLang's sharded state cannot be written outside of SGLang")
        .Expected("--to sglang without --format: a Hugging Face directory for --tp")
        .Found(
            "--format sharded-state: its loader post-processes the model before it copies the files, so "
            "they must hold weights as one GPU and back end left them");
  if (options.to != TargetKind::kVllm)
    return UsageError("only vLLM has this format")
        .Expected("--to vllm --format sharded-state")
        .Found("--to " + TargetWord(options));
  if (options.attention != AttentionStorage::kAuto)
    return UsageError("a rank's attention is chunk r of fused(--tp)")
        .Expected("--attention auto")
        .Found("--attention " + std::string(WordOf(kAttentionStorages, options.attention)))
        .Advice("--dtype bf16 decodes the whole model");
  MIMO_RETURN_IF_ERROR(CheckEach(p, {RequireRanks, RefuseIteration, RefuseTrainingTopology}));
  if (options.on_straddle == StraddlePolicy::kBf16)
    return UsageError("rank files hold attention of one type")
        .Expected("--on-straddle requant or refuse")
        .Found("bf16")
        .Advice("--dtype bf16 decodes the whole model");
  MIMO_RETURN_IF_ERROR(CheckEach(p, {RefuseShardSize, RefuseExpertCodes}));
  if (!options.ranks.empty() && (options.ranks.front() < 0 || options.ranks.back() >= options.tp))
    return UsageError("--ranks names a rank that there is not")
        .Expected("ranks 0 to " + std::to_string(options.tp - 1))
        .Found(std::to_string(options.ranks.back()));
  return CheckEach(p, {CheckFold, RefuseQkv});
}

Status ShardedStateForm::Aim(const Choice&, Planning* p) const {
  // Scales for smaller blocks are of a shape that the engine's kernels decide.
  MIMO_RETURN_IF_ERROR(ShareOut(p, {}));
  MIMO_ASSIGN_OR_RETURN(const EngineTarget engine, TargetOf(*p));  // checks version and blocks
  p->target.rounds_router = p->catalogue.config.router_dtype == "bfloat16";
  p->target.qkv = {QkvKind::kFused, p->options.tp};  // chunk r is rank r, quantized or not
  return CheckFits(*p, "--tp " + std::to_string(p->options.tp));
}

std::string ShardedStateForm::InsteadOfStraddling(const Planning& p) const {
  std::string values = "--dtype bf16 stores values";
  // A folded scale may be what differs, and another number of ranks is padded otherwise.
  if (p.options.fold_value_scale || p.target.resizes(p.catalogue.config)) return values;
  for (int64_t tp = p.options.tp / 2; tp > 0; --tp) {
    const QkvLayout layout{QkvKind::kFused, tp};
    if (p.options.tp % tp != 0 || !Fits(p, layout) || AnyStraddles(p, layout)) continue;
    const std::string ranks = std::to_string(tp);  // a divisor: all else can be shared out too
    return "--tp " + ranks + (p.options.ep > 1 ? " --ep " + ranks : "") + " moves every block, " + values;
  }
  return values;
}

void ShardedStateForm::Amend(const Planning& p, HfDescription* description) const {
  description->ranks = true;
  description->text_only = true;
  // Quantized as the source says, or not at all; unless what it says is not what it stores.
  description->keeps_quantization = p.chooser.keeps() && !DeclaresOtherwise(p) && !ShownOtherwise(p);
  description->marker.tp = p.options.tp;
  description->marker.ep = std::max<int64_t>(p.options.ep, 1);
  description->marker.table = p.target.table;
  if (RouterIsBf16(p) && p.catalogue.config.router_dtype != "bfloat16") description->marker.router = DType::kBF16;
  std::vector<std::string> vectors;
  for (const CacheScale& scale : p.inventory.cache_scales)
    if (const StoredArray& array = p.catalogue.arrays[scale.array]; array.shape.size() == 1)
      vectors.push_back(array.name);
  description->marker.cache_vectors = !vectors.empty() && vectors.size() == p.inventory.cache_scales.size();
  if (!description->marker.cache_vectors) description->marker.cache_vector_names = std::move(vectors);
}

}  // namespace mimo
