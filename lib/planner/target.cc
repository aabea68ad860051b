#include "lib/planner/target.h"

#include <algorithm>
#include <numeric>

#include "lib/form/engine_targets.h"
#include "lib/form/hf.h"
#include "lib/layout/partition.h"
#include "lib/model/role_groups.h"
#include "lib/plan/words.h"

namespace mimo {
namespace {

std::string HeadsText(const std::vector<AttentionShape>& shapes) {
  std::string text;
  for (const AttentionShape& s : shapes)
    text += (text.empty() ? "" : " and ") + std::to_string(s.heads) + " Q, " + std::to_string(s.kv_heads) + " KV heads";
  return text;
}

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

class TargetChooser {
 public:
  TargetChooser(const Catalogue& catalogue, const Inventory& inventory, const LayoutVerdict& verdict,
                const PlanOptions& options, StorageChooser& chooser, bool viewed)
      : catalogue_(catalogue),
        config_(catalogue.config),
        inventory_(inventory),
        verdict_(verdict),
        options_(options),
        chooser_(chooser),
        viewed_(viewed) {}

  Result<Target> Choose() {
    MIMO_RETURN_IF_ERROR(CheckOptions());
    target_.model = config_;
    target_.model.global = LogicalShape(config_, false);
    target_.model.window = LogicalShape(config_, true);
    target_.block_rows = options_.fp8_block_rows > 0 ? options_.fp8_block_rows : config_.block_rows;
    MIMO_ASSIGN_OR_RETURN(const Choice attention, AttentionChoice());
    const bool kept = attention.kind == Choice::Kind::kKeep || attention.kind == Choice::Kind::kRename;
    target_.keeps_fp8 = inventory_.quantized_attention && kept;
    target_.restores = Restores();
    if (target_.restores) MIMO_RETURN_IF_ERROR(Undo());
    if (ForEngine()) MIMO_RETURN_IF_ERROR(ShareOut());
    MIMO_RETURN_IF_ERROR(ChooseLayout(attention));
    return std::move(target_);
  }

 private:
  std::string TargetWord() const { return std::string(WordOf(kTargets, options_.to)); }
  bool ForEngine() const { return options_.to == TargetKind::kVllm || options_.to == TargetKind::kSglang; }

  Status CheckOptions() const {
    const bool ranks = options_.format == FormKind::kShardedState;
    const bool megatron = options_.to == TargetKind::kMegatron;
    if (megatron) return CheckMegatron();
    if (options_.format && !ranks)
      return UsageError("not a format of this target")
          .Expected("sharded-state")
          .Found("--format " + std::string(WordOf(kForms, *options_.format)));
    if (ranks && options_.to == TargetKind::kSglang)
      return UsageError("SGLang's sharded state cannot be written outside of SGLang")
          .Expected("--to sglang without --format: a Hugging Face directory for --tp")
          .Found(
              "--format sharded-state: its loader post-processes the model before it copies the files, so "
              "they must hold weights as one GPU and back end left them");
    if (ranks && options_.to != TargetKind::kVllm)
      return UsageError("only vLLM has this format")
          .Expected("--to vllm --format sharded-state")
          .Found("--to " + TargetWord());
    if (ranks && options_.attention != AttentionStorage::kAuto)
      return UsageError("a rank's attention is chunk r of fused(--tp)")
          .Expected("--attention auto")
          .Found("--attention " + std::string(WordOf(kAttentionStorages, options_.attention)))
          .Advice("--dtype bf16 decodes the whole model");
    if (ForEngine() && options_.tp == 0)
      return UsageError("--to " + TargetWord() + " needs to know the ranks").Expected("--tp N").Found("none");
    const bool neuron_bf16 = options_.to == TargetKind::kNxdi && options_.attention == AttentionStorage::kBf16;
    if (!ForEngine() && (options_.tp > 0 || options_.ep > 0 || options_.pad || !options_.engine_version.empty() ||
                         (options_.attention != AttentionStorage::kAuto && !neuron_bf16)))
      return UsageError("--tp, --ep, --pad, --attention and --engine-version belong to an engine")
          .Expected("--to vllm or --to sglang")
          .Found("--to " + TargetWord());
    if (options_.pp > 1)
      return UsageError("this form cannot name pipeline stages")
          .Expected("--pp 1: each stage loads the layers that it needs")
          .Found("--pp " + std::to_string(options_.pp));
    if (options_.etp > 1)
      return UsageError("engines cut experts by --tp or place them whole by --ep")
          .Expected("no --etp")
          .Found("--etp " + std::to_string(options_.etp));
    if (ranks && options_.on_straddle == StraddlePolicy::kBf16)
      return UsageError("rank files hold attention of one type")
          .Expected("--on-straddle requant or refuse")
          .Found("bf16")
          .Advice("--dtype bf16 decodes the whole model");
    if ((ranks || options_.to == TargetKind::kNxdi) && options_.max_shard_bytes > 0)
      return UsageError("the files of this form are cut by layer").Expected("no --max-shard-size").Found("one");
    if (options_.to == TargetKind::kNxdi && options_.fp8_block_rows > 0)
      return UsageError("Neuron's blocks are 128 x 128")
          .Expected("no --fp8-block")
          .Found(std::to_string(options_.fp8_block_rows) + " rows");
    if (options_.to != TargetKind::kNxdi && options_.expert_codes)
      return UsageError("--expert-codes speaks of Neuron's FP8").Expected("--to nxdi").Found("--to " + TargetWord());
    if (!options_.ranks.empty() && !ranks)
      return UsageError("--ranks chooses among rank files").Expected("--format sharded-state").Found("none");
    if (!options_.ranks.empty() && (options_.ranks.front() < 0 || options_.ranks.back() >= options_.tp))
      return UsageError("--ranks names a rank that there is not")
          .Expected("ranks 0 to " + std::to_string(options_.tp - 1))
          .Found(std::to_string(options_.ranks.back()));
    if (options_.fold_value_scale == FoldInto::kV && config_.scale_fmt == "ue8m0" && chooser_.keeps())
      return UsageError("scales that are powers of two cannot take in the value scale")
          .Expected("--fold-value-scale o")
          .Found("--fold-value-scale v");
    if (options_.fold_value_scale && !config_.value_scale)
      return UsageError("there is no value scale to fold")
          .Expected("attention_value_scale in config.json")
          .Found("none");
    if (options_.to != TargetKind::kHf && options_.qkv.kind != QkvWish::Kind::kKeep)
      return UsageError("--qkv and --to contradict each other")
          .Expected("--attention fused|split|bf16 with --to vllm or sglang")
          .Found("--qkv " + options_.qkv.text);
    return {};
  }

  // Parallel sizes say how finely tensors are cut, and what run_config.yaml names; any other loads the same directory.
  Status CheckMegatron() const {
    if (options_.dtype == DTypeChoice::kKeep || options_.recipe)
      return UsageError("Megatron holds values, not codes")
          .Expected("--dtype bf16, fp16 or fp32")
          .Found("another")
          .Advice("Megatron -> HF quantizes: --like, or --to hf and a recipe in a second run");
    if (options_.qkv.kind != QkvWish::Kind::kKeep)
      return UsageError("Megatron has one layout of attention")
          .Expected("no --qkv")
          .Found("--qkv " + options_.qkv.text);
    if (options_.max_shard_bytes > 0 || !options_.ranks.empty() || !options_.engine_version.empty() ||
        options_.attention != AttentionStorage::kAuto || options_.expert_codes || options_.fp8_block_rows > 0)
      return UsageError("an option that does not go with Megatron")
          .Expected("none of --max-shard-size, --ranks, --engine-version, --attention, --expert-codes, --fp8-block")
          .Found("one of them");
    if (options_.fold_value_scale)
      return UsageError("Megatron-Bridge applies attention_value_scale itself")
          .Expected("no --fold-value-scale")
          .Found("one");
    if (options_.unknown == UnknownPolicy::kCarry)
      return UsageError("Megatron has no place for unknown tensors")
          .Expected("--unknown drop")
          .Found("--unknown carry");
    if (options_.ep > 1 && config_.experts % options_.ep != 0)
      return UsageError("the experts cannot be placed on these ranks")
          .Expected("a divisor of " + std::to_string(config_.experts))
          .Found("--ep " + std::to_string(options_.ep));
    return {};
  }

  std::vector<AttentionShape> Shapes(const ModelConfig& model) const {
    std::vector<AttentionShape> shapes;
    for (bool windowed : {false, true})
      if (std::any_of(inventory_.attention.begin(), inventory_.attention.end(),
                      [&](const AttentionWeights& a) { return IsWindowed(config_, a) == windowed; }))
        shapes.push_back(model.attention(windowed));
    return shapes;
  }

  bool Fits(const QkvLayout& layout) const {
    const auto shapes = Shapes(target_.model);
    return std::all_of(shapes.begin(), shapes.end(), [&](const AttentionShape& s) { return LayoutFits(layout, s); });
  }

  // What attention becomes. The first layer speaks for all: a rule that tells layers apart by name is still honoured
  // layer by layer, in the layout that this chooses.
  Result<Choice> AttentionChoice() {
    for (const AttentionWeights& a : inventory_.attention) {
      const uint32_t first = a.fused() ? a.qkv : a.q;
      if (first == kNone) continue;
      const Weight& weight = inventory_.weights[first];
      if (inventory_.quantized_attention && !HasBlockGrid(weight.storage)) continue;
      return chooser_.Choose(weight, weight.id, catalogue_.arrays[weight.array].name);
    }
    return Choice();
  }

  bool Restores() const {
    if (options_.to != TargetKind::kHf) return false;
    const bool asked =
        options_.qkv.kind == QkvWish::Kind::kRestore || (options_.qkv.kind == QkvWish::Kind::kKeep && viewed_);
    return asked && config_.marker && (config_.marker->source || config_.marker->unpadded);
  }

  // Everything but the layout that the way back undoes.
  Status Undo() {
    if (!config_.marker->folded.empty())
      return UsageError("the checkpoint has its attention_value_scale in its weights, and cannot be restored exactly")
          .Expected("--qkv with a layout, which keeps it there")
          .Found("--qkv restore");
    if (catalogue_.origin) {
      MIMO_ASSIGN_OR_RETURN(const ModelConfig origin, ParseModelConfig(catalogue_.origin->config, "mimo-source"));
      target_.block_rows = origin.block_rows;
    }
    DropPadding();
    return {};
  }

  void DropPadding() {
    if (!config_.marker->unpadded) return;
    const UnpaddedDimensions& d = *config_.marker->unpadded;
    ModelConfig& model = target_.model;
    model.global.heads = d.heads;
    model.global.kv_heads = d.kv_heads;
    model.window.heads = d.swa_heads;
    model.window.kv_heads = d.swa_kv_heads;
    model.intermediate = d.intermediate;
    model.moe_intermediate = d.moe_intermediate;
    model.vocab = d.vocab;
  }

  // Rows that one part of the weights of a kind must be a multiple of.
  int64_t GroupOf(bool experts) const {
    bool fp8 = false;
    for (const Weight& w : inventory_.weights)
      if (experts ? IsExpert(w.id.role) : IsDenseMlp(w.id.role)) fp8 |= HasBlockGrid(w.storage);
    return fp8 ? std::lcm(config_.block_rows, config_.block_cols) : 32;  // rows of some, columns of others are cut
  }
  // Whether tp ranks can share out the model, each weight in whole blocks; pads where asked.
  Status ShareOut() {
    const int64_t tp = options_.tp, ep = std::max<int64_t>(options_.ep, 1);
    if (ep != 1 && ep != tp)
      return UsageError("engines place experts on the ranks of --tp, or on none")
          .Expected("--ep 1 or --ep " + std::to_string(tp))
          .Found("--ep " + std::to_string(ep))
          .Advice("more expert ranks come from data parallelism, which files cannot name");
    const int64_t dense = GroupOf(false), experts = ep > 1 ? 1 : GroupOf(true);
    if (options_.pad) {
      ModelConfig padded = PaddedConfig(target_.model, tp, dense, experts);
      if (ep > 1) padded.moe_intermediate = target_.model.moe_intermediate;
      padded.vocab = RoundUp(padded.vocab, std::lcm<int64_t>(64, tp));  // vLLM pads to 64, and cuts the result
      if (RoundUp(target_.model.vocab, 64) % tp == 0) padded.vocab = target_.model.vocab;
      target_.model = std::move(padded);
    }
    if (ep > 1 && config_.experts % ep != 0) {
      int64_t nearest = ep;
      while (config_.experts % nearest != 0) --nearest;
      return UsageError("the experts cannot be placed on " + std::to_string(ep) + " ranks")
          .Expected("a divisor of " + std::to_string(config_.experts) + " experts")
          .Found("--ep " + std::to_string(ep))
          .Advice("--ep 1, or --tp " + std::to_string(nearest) + " --ep " + std::to_string(nearest));
    }
    Status fits = CheckTensorParallel(target_.model, tp, ep > 1 ? 1 : tp);
    if (!fits.ok()) {
      Error e = fits.TakeError();
      if (!options_.pad)
        e.advice += std::string(e.advice.empty() ? "" : ", ") + "or --pad, which adds zero heads and columns";
      return e;
    }
    // SGLang pads the vocabulary to what its ranks need.
    if (const int64_t rows = RoundUp(target_.model.vocab, 64); options_.to == TargetKind::kVllm && rows % tp != 0)
      return UsageError("the vocabulary cannot be cut into " + std::to_string(tp) + " parts")
          .Expected("a multiple of " + std::to_string(tp) + " once it is padded to a multiple of 64")
          .Found(std::to_string(target_.model.vocab) + " rows")
          .Advice("--pad, which adds rows of zeros");
    MIMO_RETURN_IF_ERROR(CheckBlocks("dense layers", target_.model.intermediate, tp, dense));
    return ep > 1 ? Status() : CheckBlocks("experts", target_.model.moe_intermediate, tp, experts);
  }

  Status CheckBlocks(const std::string& what, int64_t rows, int64_t tp, int64_t group) const {
    if (rows % (tp * group) == 0) return {};
    int64_t nearest = tp;
    while (nearest > 1 && rows % (nearest * group) != 0) --nearest;
    std::string advice = "--tp " + std::to_string(nearest);
    if (what == "experts") advice += ", or --ep " + std::to_string(tp) + " to place experts whole";
    if (!options_.pad) advice += ", or --pad, which adds zero rows and columns";
    return UsageError("the " + what + " cannot be cut into " + std::to_string(tp) + " parts of whole blocks")
        .Expected("a multiple of " + std::to_string(tp) + " x " + std::to_string(group) + " rows")
        .Found(std::to_string(rows) + " rows")
        .Advice(advice);
  }

  Status ChooseLayout(const Choice& attention) {
    if (ForEngine()) return ChooseForEngine();
    if (options_.to == TargetKind::kNxdi || options_.to == TargetKind::kMegatron) {
      target_.qkv = {QkvKind::kSplitIndependent, 1};
      return {};
    }
    const Recipe* recipe = chooser_.recipe();
    QkvWish wish =
        options_.qkv.kind == QkvWish::Kind::kKeep && recipe != nullptr && recipe->qkv ? *recipe->qkv : options_.qkv;
    if (target_.restores && config_.marker->source) {
      target_.qkv = LayoutOf(*config_.marker->source);
      // Fused FP8 whose scales are gone would be taken for plain [Q;K;V]; values have no grid.
      if (!target_.keeps_fp8 && WasQuantized()) target_.qkv = {QkvKind::kSplitIndependent, 1};
      return CheckFits("the source's layout");
    }
    if (wish.kind == QkvWish::Kind::kRestore) wish = QkvWish();
    const QkvLayout source = verdict_.layout;
    const int64_t kv_heads = target_.model.global.kv_heads;
    const bool split = wish.kind == QkvWish::Kind::kSplit && !wish.chunks;
    if (wish.kind == QkvWish::Kind::kKeep) {
      target_.qkv = source;
    } else if (split && !target_.keeps_fp8) {
      target_.qkv = {QkvKind::kSplitIndependent, 1};
    } else if (split) {
      // The cut of the chunks as they are loses nothing; replicas are dropped.
      target_.qkv = source.fused() ? QkvLayout{QkvKind::kSplit, std::min(source.chunks, kv_heads)} : source;
      if (target_.qkv.kind == QkvKind::kSplit && SameAsIndependent()) target_.qkv = {QkvKind::kSplitIndependent, 1};
    } else if (wish.kind == QkvWish::Kind::kFused && !wish.chunks) {
      target_.qkv = source.fused() ? source : QkvLayout{QkvKind::kFused, kv_heads};
    } else {
      MIMO_ASSIGN_OR_RETURN(target_.qkv, LayoutOfWish(wish, catalogue_));
    }
    // A grid that is made anew is each tensor's own: that of the chunks was an accident of how the release was made.
    const bool fresh_grid = attention.kind == Choice::Kind::kEncode && attention.encoding.codec == Codec::kFp8Block;
    if (fresh_grid && wish.kind == QkvWish::Kind::kKeep && target_.qkv.kind == QkvKind::kSplit)
      target_.qkv = {QkvKind::kSplitIndependent, 1};
    return CheckFits("--qkv " + wish.text);
  }

  bool WasQuantized() const {
    if (!catalogue_.origin) return true;
    const Result<ModelConfig> origin = ParseModelConfig(catalogue_.origin->config, "");
    return !origin.ok() || !origin.value().quant_method.empty();
  }

  Status CheckFits(const std::string& wish) const {
    if (Fits(target_.qkv)) return {};
    return UsageError(wish + " does not fit this model")
        .Expected("a chunk count that divides the Q heads, and that divides the KV heads or is a multiple of them: " +
                  HeadsText(Shapes(target_.model)))
        .Found(target_.qkv.ToString());
  }

  bool SameAsIndependent() const {
    for (const AttentionShape& s : Shapes(target_.model)) {
      const QkvMap a = BuildQkvMap(target_.qkv, s, target_.block_rows);
      const QkvMap b = BuildQkvMap({QkvKind::kSplitIndependent, 1}, s, target_.block_rows);
      if (ComposeRows(a, b) != ComposeRows(b, b) || a.bands != b.bands) return false;
    }
    return true;
  }

  // Whether the rows of Q of every rank are whole blocks: else the loaders of split files cannot name where K begins.
  bool WholeQBlocks() const {
    for (const AttentionShape& s : Shapes(target_.model))
      if (s.q_rows() / options_.tp % target_.block_rows != 0) return false;
    return true;
  }

  bool AnyStraddles(const QkvLayout& layout) const {
    for (const bool windowed : {false, true}) {
      const AttentionShape& s = target_.model.attention(windowed);
      const QkvMap source = BuildQkvMap(verdict_.layout, LogicalShape(config_, windowed), config_.block_rows);
      if (LayoutFits(layout, s) && Straddles(source, BuildQkvMap(layout, s, target_.block_rows))) return true;
    }
    return false;
  }

  // Split FP8 that already lies on the grid which loaders index at this TP.
  bool LoadsAsItIs() const {
    const QkvLayout wanted{QkvKind::kSplit, options_.tp};
    if (verdict_.layout.fused() || target_.resizes(config_) || target_.block_rows != config_.block_rows ||
        !target_.keeps_fp8 || !WholeQBlocks() || !Fits(wanted))
      return false;
    for (const AttentionShape& s : Shapes(target_.model)) {
      const QkvMap stored = BuildQkvMap(verdict_.layout, s, config_.block_rows);
      if (stored.bands != BuildQkvMap(wanted, s, config_.block_rows).bands) return false;
    }
    return true;
  }

  Status ChooseForEngine() {
    const int64_t tp = options_.tp;
    const ModelConfig& model = target_.model;
    Facts facts;
    facts["tp"] = tp;
    facts["heads"] = model.global.heads;
    facts["kv_heads"] = model.global.kv_heads;
    facts["swa_kv_heads"] = model.window.kv_heads;
    facts["q_rows_per_rank_blocks"] = std::string(WholeQBlocks() ? "whole" : "cut");
    MIMO_ASSIGN_OR_RETURN(EngineTarget engine, ChooseEngineTarget(TargetWord(), options_.engine_version, facts));
    if (options_.fp8_block_rows > 0 &&
        std::find(engine.fp8_blocks.begin(), engine.fp8_blocks.end(),
                  std::pair<int64_t, int64_t>(options_.fp8_block_rows, config_.block_cols)) == engine.fp8_blocks.end())
      return UsageError(engine.text + " does not take these blocks")
          .Expected("128x128")
          .Found(std::to_string(options_.fp8_block_rows) + "x" + std::to_string(config_.block_cols));
    if (options_.format == FormKind::kShardedState) {
      target_.qkv = {QkvKind::kFused, tp};  // chunk r is rank r, quantized or not
      return CheckFits("--tp " + std::to_string(tp));
    }
    const bool automatic = options_.attention == AttentionStorage::kAuto;
    if (automatic && LoadsAsItIs()) {
      target_.qkv = verdict_.layout;
      target_.notes.push_back(engine.text + " at TP " + std::to_string(tp) +
                              " verbatim: split on the grid of its ranks");
      return {};
    }
    const std::string at = engine.text + " at TP " + std::to_string(tp);
    if (!target_.keeps_fp8) {
      target_.qkv = {QkvKind::kSplitIndependent, 1};
      target_.notes.push_back(at + ": unquantized q, k and v load as they are");
      return {};
    }
    const AttentionStorage wanted = StorageOf(engine.attention);
    AttentionStorage attention = automatic ? wanted : options_.attention;
    if (attention == wanted)
      target_.notes.push_back(at + " " + engine.load + (engine.note.empty() ? "" : ": " + engine.note));
    if (attention != AttentionStorage::kBf16 && options_.on_straddle == StraddlePolicy::kBf16) {
      const QkvLayout layout = attention == AttentionStorage::kSplit
                                   ? QkvLayout{QkvKind::kSplit, tp}
                                   : QkvLayout{QkvKind::kFused, std::max(tp, model.global.kv_heads)};
      if (Fits(layout) && AnyStraddles(layout)) {
        attention = AttentionStorage::kBf16;
        target_.notes.push_back("blocks would straddle: attention of all layers becomes BF16 (--on-straddle bf16)");
      }
    }
    if (attention == AttentionStorage::kBf16) {
      target_.qkv = {QkvKind::kSplitIndependent, 1};
      target_.decodes = true;
      target_.keeps_fp8 = false;
      return {};
    }
    if (attention == AttentionStorage::kSplit) {
      if (!WholeQBlocks())
        return UsageError("split FP8 attention cannot be expressed at TP " + std::to_string(tp))
            .Expected("Q rows per rank in whole blocks of " + std::to_string(target_.block_rows))
            .Found(std::to_string(model.global.q_rows() / tp) + " Q rows per rank, so that K shares a block with Q")
            .Advice("--attention fused, or --tp " + std::to_string(tp / 2));
      target_.qkv = {QkvKind::kSplit, tp};
      if (SameAsIndependent()) target_.qkv = {QkvKind::kSplitIndependent, 1};
      return CheckFits("--tp " + std::to_string(tp));
    }
    // Engines take the chunk count from num_key_value_heads, which cannot be below what the model has.
    target_.qkv = {QkvKind::kFused, std::max(tp, model.global.kv_heads)};
    return CheckFits("--tp " + std::to_string(tp));
  }

  const Catalogue& catalogue_;
  const ModelConfig& config_;
  const Inventory& inventory_;
  const LayoutVerdict& verdict_;
  const PlanOptions& options_;
  StorageChooser& chooser_;
  const bool viewed_;
  Target target_;
};

}  // namespace

bool Target::resizes(const ModelConfig& source) const {
  return model.global.heads != source.global.heads || model.window.heads != source.window.heads ||
         model.intermediate != source.intermediate || model.moe_intermediate != source.moe_intermediate ||
         model.vocab != source.vocab;
}

Result<Target> ChooseTarget(const Catalogue& catalogue, const Inventory& inventory, const LayoutVerdict& verdict,
                            const PlanOptions& options, StorageChooser& chooser, bool viewed) {
  return TargetChooser(catalogue, inventory, verdict, options, chooser, viewed).Choose();
}

}  // namespace mimo
