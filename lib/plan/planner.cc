#include "lib/plan/planner.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "lib/form/hf.h"
#include "lib/model/role_groups.h"
#include "lib/plan/builder.h"
#include "lib/plan/choice.h"
#include "lib/plan/filter.h"
#include "lib/plan/hf_output.h"
#include "lib/plan/plan_json.h"
#include "lib/plan/usage_error.h"

namespace mimo {

namespace {

class Planner {
 public:
  Planner(const Catalogue& catalogue, const Inventory& inventory, const LayoutVerdict& verdict,
          const PlanOptions& options, const SurveyFacts& facts)
      : catalogue_(catalogue),
        inventory_(inventory),
        verdict_(verdict),
        options_(options),
        facts_(facts),
        builder_(catalogue, inventory) {}

  Result<Plan> Make() {
    MIMO_ASSIGN_OR_RETURN(StorageChooser chooser, StorageChooser::Make(catalogue_, options_));
    chooser_ = &chooser;
    dropped_.resize(catalogue_.arrays.size());
    MIMO_RETURN_IF_ERROR(ChooseTarget());
    MIMO_RETURN_IF_ERROR(PlanUnknown());
    MIMO_RETURN_IF_ERROR(PlanAttentionLayers());
    for (const Weight& weight : inventory_.weights)
      if (!IsAttentionProjection(weight.id.role)) MIMO_RETURN_IF_ERROR(PlanWeight(weight));
    MIMO_RETURN_IF_ERROR(PlanFused());
    MIMO_RETURN_IF_ERROR(chooser.CheckAllUsed());
    MIMO_RETURN_IF_ERROR(ApplyFilter(options_, builder_, &dropped_));
    MIMO_RETURN_IF_ERROR(CheckPromises());
    builder_.plan().target_layout = target_;
    PlaceOutputs(builder_, options_.max_shard_bytes);
    MIMO_RETURN_IF_ERROR(Describe());
    return Finish();
  }

 private:
  // Every attention kind that the model has layers of.
  std::vector<AttentionShape> Shapes() const {
    std::vector<AttentionShape> shapes;
    for (bool windowed : {false, true})
      if (std::any_of(inventory_.attention.begin(), inventory_.attention.end(),
                      [&](const AttentionWeights& a) { return Windowed(a) == windowed; }))
        shapes.push_back(LogicalShape(catalogue_.config, windowed));
    return shapes;
  }
  bool Windowed(const AttentionWeights& a) const {
    return a.mtp || catalogue_.config.windowed[static_cast<size_t>(a.layer)] != 0;
  }
  bool Fits(const QkvLayout& layout) const {
    const auto shapes = Shapes();
    return std::all_of(shapes.begin(), shapes.end(), [&](const AttentionShape& s) { return LayoutFits(layout, s); });
  }

  Status ChooseTarget() {
    const QkvLayout source = verdict_.layout;
    const Recipe* recipe = chooser_->recipe();
    const std::string wish =
        options_.qkv == "keep" && recipe != nullptr && !recipe->qkv.empty() ? recipe->qkv : options_.qkv;
    MIMO_ASSIGN_OR_RETURN(const Choice attention, AttentionChoice());
    const bool kept = attention.kind == Choice::Kind::kKeep || attention.kind == Choice::Kind::kRename;
    keeps_fp8_ = inventory_.quantized_attention && kept;
    const int64_t kv_heads = LogicalShape(catalogue_.config, false).kv_heads;
    if (wish == "keep") {
      target_ = source;
    } else if (wish == "split" && !keeps_fp8_) {
      target_ = {QkvKind::kSplitIndependent, 1};
    } else if (wish == "split") {
      // The cut of the chunks as they are loses nothing; replicas are dropped.
      target_ = source.fused() ? QkvLayout{QkvKind::kSplit, std::min(source.chunks, kv_heads)} : source;
      if (target_.kind == QkvKind::kSplit && SameAsIndependent()) target_ = {QkvKind::kSplitIndependent, 1};
    } else if (wish == "fused") {
      target_ = source.fused() ? source : QkvLayout{QkvKind::kFused, kv_heads};
    } else {
      MIMO_ASSIGN_OR_RETURN(target_, ParseLayoutFlag(wish, catalogue_));
    }
    // A grid that is made anew is each tensor's own: that of the chunks was an accident of how the release was made.
    const bool fresh_grid = attention.kind == Choice::Kind::kEncode && attention.encoding.codec == Codec::kFp8Block;
    if (fresh_grid && wish == "keep" && target_.kind == QkvKind::kSplit) target_ = {QkvKind::kSplitIndependent, 1};
    if (!Fits(target_)) {
      std::string heads;
      for (const AttentionShape& s : Shapes())
        heads += (heads.empty() ? "" : " and ") + std::to_string(s.heads) + " Q, " + std::to_string(s.kv_heads) +
                 " KV heads";
      return UsageError("--qkv " + wish + " does not fit this model",
                        "a chunk count that divides the Q heads, and that divides the KV heads "
                        "or is a multiple of them: " +
                            heads,
                        target_.ToString(), "");
    }
    return {};
  }

  // What attention becomes. The first layer speaks for all: a rule that tells layers apart by name is still honoured
  // layer by layer, in the layout that this chooses.
  Result<Choice> AttentionChoice() {
    for (const AttentionWeights& a : inventory_.attention) {
      const uint32_t first = a.fused() ? a.qkv : a.q;
      if (first == kNone) continue;
      const Weight& weight = inventory_.weights[first];
      if (inventory_.quantized_attention && weight.storage != Storage::kFp8Block) continue;
      return chooser_->Choose(weight, weight.id, catalogue_.arrays[weight.array].name);
    }
    return Choice();
  }

  bool SameAsIndependent() const {
    for (const AttentionShape& s : Shapes()) {
      const QkvMap a = BuildQkvMap(target_, s), b = BuildQkvMap({QkvKind::kSplitIndependent, 1}, s);
      if (ComposeRows(a, b) != ComposeRows(b, b) || a.bands != b.bands) return false;
    }
    return true;
  }

  Status PlanUnknown() {
    for (uint32_t array : inventory_.unknown) {
      const StoredArray& stored = catalogue_.arrays[array];
      if (options_.unknown == UnknownPolicy::kCarry) {
        builder_.BeginGroup(stored.name);
        builder_.AddUnchanged(array);
      } else if (options_.unknown == UnknownPolicy::kDrop) {
        dropped_[array] = "unknown tensor, --unknown drop";
      } else {
        Error e;
        e.what = "a tensor that no model table knows";
        e.file = JoinPath(catalogue_.root, catalogue_.files[stored.file].name);
        e.tensor = stored.name;
        e.expected = "tensors of the MiMo-V2 family only";
        e.found = std::to_string(inventory_.unknown.size()) + " unknown";
        e.advice = "pass --unknown carry to copy such tensors as they are, or --unknown drop";
        return e;
      }
    }
    return {};
  }

  // What the projections of a layer are stored as: one choice for all, for engines run them as one.
  Result<Choice> ChooseAttention(const AttentionWeights& a, AttentionRequest* request) {
    const Weight& first = inventory_.weights[a.fused() ? a.qkv : a.q];
    std::vector<Role> roles = {Role::kAttnQkv};
    if (!target_.fused()) roles = {Role::kAttnQ, Role::kAttnK, Role::kAttnV};
    std::array<std::optional<float>, 3> input_scales;
    Choice chosen;
    for (size_t i = 0; i < roles.size(); ++i) {
      TensorId id = first.id;
      id.role = roles[i];
      const std::string name = catalogue_.table->NameOf(id);
      MIMO_ASSIGN_OR_RETURN(const Choice choice, chooser_->Choose(first, id, name));
      input_scales[i] = choice.input_scale;
      if (i == 0) chosen = choice;
      if (choice.kind != chosen.kind || (choice.kind == Choice::Kind::kPlain && choice.codec != chosen.codec) ||
          (choice.kind == Choice::Kind::kEncode && choice.encoding != chosen.encoding) ||
          choice.input_scale != chosen.input_scale)
        return UsageError("a recipe tells the attention projections of one layer apart", "one type for q, k and v",
                          name + " differs from " + std::string(RoleName(roles[0])), "widen the rule");
    }
    if (chosen.kind == Choice::Kind::kEncode && chosen.encoding.codec == Codec::kFp8Block &&
        target_.kind == QkvKind::kSplit)
      return UsageError("block FP8 that is made anew has a grid for each of q, k and v",
                        "--qkv split:independent or fused", target_.ToString());
    if (chosen.kind == Choice::Kind::kPlain) request->decode = chosen.codec;
    if (chosen.kind == Choice::Kind::kEncode)
      request->encode = AttentionRequest::Encode{chosen.encoding, chosen.arrays, input_scales};
    return chosen;
  }

  Status PlanAttentionLayers() {
    for (const AttentionWeights& a : inventory_.attention) {
      if (a.qkv == kNone && a.q == kNone) continue;
      const Weight& first = inventory_.weights[a.fused() ? a.qkv : a.q];
      const AttentionShape shape = LogicalShape(catalogue_.config, Windowed(a));
      AttentionRequest request;
      request.weights = &a;
      request.source = BuildQkvMap(verdict_.layout, shape);
      request.target = BuildQkvMap(target_, shape);
      MIMO_ASSIGN_OR_RETURN(const Choice choice, ChooseAttention(a, &request));
      MIMO_RETURN_IF_ERROR(CheckMovable(a, choice));
      if (choice.kind == Choice::Kind::kRename) {
        PlanRenamed(a, choice);
        continue;
      }
      const bool refuse = options_.on_straddle != StraddlePolicy::kRequantize || options_.lossless;
      if (PlanAttention(builder_, request, refuse) == AttentionResult::kDone) {
        Rounds(first, choice);
        continue;
      }
      straddling_layers_.push_back(std::string(a.mtp ? "mtp " : "") + std::to_string(a.layer));
      if (options_.on_straddle == StraddlePolicy::kBf16 && !options_.lossless) {
        request.decode = Codec::kBf16;
        PlanAttention(builder_, request, false);
        Choice decoded;
        decoded.kind = Choice::Kind::kPlain;
        Rounds(first, decoded);
      }
    }
    return {};
  }

  // Global scales cannot be joined without new arithmetic, and names are changed array by array.
  Status CheckMovable(const AttentionWeights& a, const Choice& choice) const {
    const Weight& first = inventory_.weights[a.fused() ? a.qkv : a.q];
    const bool moves = choice.kind == Choice::Kind::kKeep || choice.kind == Choice::Kind::kRename;
    const bool same = verdict_.layout == target_;
    if (!moves || same) return {};
    const std::string name = catalogue_.arrays[first.array].name;
    if (first.storage == Storage::kNvfp4 && !a.fused())
      return UsageError("NVFP4 projections with global scales of their own cannot be fused as they are",
                        "--qkv keep, or attention of another type", name);
    if (choice.kind == Choice::Kind::kRename)
      return UsageError("quantized attention cannot change its layout and its dialect at once",
                        "--qkv keep, or the dialect of the source", name);
    return {};
  }

  void PlanRenamed(const AttentionWeights& a, const Choice& choice) {
    builder_.BeginGroup(catalogue_.arrays[inventory_.weights[a.fused() ? a.qkv : a.q].array].name);
    for (const uint32_t weight : {a.qkv, a.q, a.k, a.v})
      if (weight != kNone) builder_.AddRenamed(inventory_.weights[weight], choice.arrays);
  }

  // Keeps count of what rounds. Exact paths are known only when the data is seen; under --lossless the run checks them.
  void Rounds(const Weight& weight, const Choice& choice) {
    const DType plain = catalogue_.arrays[weight.array].dtype;
    bool exact = true;
    if (choice.kind == Choice::Kind::kPlain) {
      exact = weight.storage == Storage::kMxfp4   ? choice.codec != Codec::kFp16
              : weight.storage == Storage::kPlain ? choice.codec == Codec::kFp32 && plain != DType::kF32
                                                  : false;
    } else if (choice.kind == Choice::Kind::kEncode) {
      const Codec to = choice.encoding.codec;
      exact = (weight.storage == Storage::kMxfp4 && (to == Codec::kNvfp4 || to == Codec::kFp8Block)) ||
              (weight.storage == Storage::kFp8Block && to == Codec::kMxfp8);
      // The survey has seen the scales of attention; those of experts are of the same making.
      const bool powers_of_two = facts_.attention_scales > 0 && facts_.power_of_two_scales == facts_.attention_scales;
      maybe_exact_ += exact && (weight.storage == Storage::kMxfp4 || powers_of_two);
    } else if (choice.kind == Choice::Kind::kRename) {
      exact = weight.global == kNone || weight.global_divides == choice.arrays.global_divides;
    }
    if (!exact) ++rounded_;
  }

  Status PlanWeight(const Weight& weight) {
    const StoredArray& stored = catalogue_.arrays[weight.array];
    if (options_.text_only && IsTower(weight.id.role)) {
      dropped_[weight.array] = "tower, --text-only";
      return {};
    }
    // "attention_sink_bias" has no parts; "weight_packed" is "weight" to everyone but its reader.
    const std::string name = stored.id.part == Part::kPacked ? NameOfPart(stored.name, Part::kWeight) : stored.name;
    MIMO_ASSIGN_OR_RETURN(const Choice choice, chooser_->Choose(weight, weight.id, name));
    Rounds(weight, choice);
    switch (choice.kind) {
      case Choice::Kind::kKeep:
        builder_.BeginGroup(stored.name);
        builder_.AddKept(weight);
        break;
      case Choice::Kind::kRename:
        builder_.BeginGroup(stored.name);
        builder_.AddRenamed(weight, choice.arrays);
        break;
      case Choice::Kind::kPlain:
        builder_.BeginGroup(stored.name);
        PlanPlain(weight, choice.codec, name);
        break;
      case Choice::Kind::kEncode: {
        EncodedRequest request;
        request.id = weight.id;
        request.name = name;
        request.rows = weight.rows;
        request.cols = weight.cols;
        request.encoding = choice.encoding;
        request.arrays = choice.arrays;
        request.input_scale = choice.input_scale;
        request.pieces.push_back({builder_.DecodedSource(weight), 0, 0, weight.rows});
        // Only NVFP4 has something to share; without it every weight is a group of its own.
        const std::string_view fuse =
            choice.encoding.codec == Codec::kNvfp4 ? catalogue_.table->FuseOf(weight.id) : std::string_view();
        const std::string label = fuse.empty() ? name : name.substr(0, name.rfind('.', name.rfind('.') - 1));
        fused_[{weight.id.mtp, weight.id.layer, weight.id.expert, fuse.empty() ? name : std::string(fuse)}].push_back(
            {label, std::move(request), weight.array});
        break;
      }
    }
    return {};
  }

  void PlanPlain(const Weight& weight, Codec codec, const std::string& name) {
    OutputArray output;
    output.name = name;
    output.id = weight.id;
    output.target_codec = codec;
    output.dtype = DTypeOf(codec);
    output.shape = catalogue_.arrays[weight.array].shape;
    if (weight.storage != Storage::kPlain) output.shape.back() = weight.cols;
    output.transform = Transform::kConvert;
    output.pieces.push_back({builder_.DecodedSource(weight), 0, 0, output.rows()});
    builder_.AddOutput(std::move(output), weight.array);
  }

  // Weights that engines run as one are encoded together, under one global scale.
  Status PlanFused() {
    for (auto& [key, members] : fused_) {
      builder_.BeginGroup(members[0].label);
      for (FusedMember& member : members) {
        if (member.request.input_scale != members[0].request.input_scale)
          return UsageError("different input scales for weights that engines run as one", "equal input scales",
                            member.request.name, "give " + members[0].request.name + " the same");
        builder_.AddEncoded(member.request, member.near);
      }
    }
    fused_.clear();
    return {};
  }

  Status CheckPromises() {
    const Plan& plan = builder_.plan();
    std::string layers;
    for (const std::string& layer : straddling_layers_) layers += (layers.empty() ? "" : ", ") + layer;
    Error e;
    e.code = ErrorCode::kCheckFailed;
    e.file = catalogue_.root;
    if (!layers.empty() && (options_.lossless || options_.on_straddle == StraddlePolicy::kRefuse)) {
      e.what = "scale blocks straddle: " + verdict_.layout.ToString() + " -> " + target_.ToString() +
               " would re-quantize them";
      e.expected =
          options_.lossless ? "nothing that rounds (--lossless)" : "no straddling blocks (--on-straddle refuse)";
      e.found = "straddling blocks in the attention of layers " + layers;
      e.advice = "choose another --qkv, or --on-straddle requant|bf16";
      return e;
    }
    if (options_.lossless && rounded_ > 0) {
      e.what = options_.recipe.empty() ? "--dtype rounds" : "the recipe rounds";
      e.expected = "nothing that rounds (--lossless)";
      e.found = std::to_string(rounded_) + " weights whose values do not fit the target type exactly";
      e.advice = "keep them (--dtype keep), or leave --lossless out";
      return e;
    }
    builder_.plan().lossless = rounded_ == 0 && plan.straddling_blocks == 0;
    return {};
  }

  Status Describe() {
    Plan& plan = builder_.plan();
    HfDescription d;
    d.layout = target_;
    d.global = LogicalShape(catalogue_.config, false);
    d.window = LogicalShape(catalogue_.config, true);
    d.text_only = options_.text_only;
    d.quantization = DescribeQuantization(catalogue_, inventory_, plan, chooser_->dialect());
    switch (options_.dtype) {
      case DTypeChoice::kBf16:
        d.dtype = "bfloat16";
        break;
      case DTypeChoice::kFp16:
        d.dtype = "float16";
        break;
      case DTypeChoice::kFp32:
        d.dtype = "float32";
        break;
      case DTypeChoice::kKeep:
        break;
    }
    const bool requantized = !chooser_->keeps();
    const bool edited = target_ != verdict_.layout || requantized || options_.text_only;
    std::string config = catalogue_.config.text;
    if (edited) {
      MIMO_ASSIGN_OR_RETURN(config, EditHfConfig(catalogue_.config, d));
    }
    std::vector<std::pair<std::string, std::string>> where;
    for (const OutputArray& output : plan.outputs) {
      where.emplace_back(output.name, plan.files[output.file].name);
      plan.payload_bytes += output.end - output.begin;
    }
    std::sort(where.begin(), where.end());
    plan.texts.push_back({kHfConfigName, std::move(config)});
    plan.texts.push_back({kHfIndexName, BuildHfIndex(catalogue_.index, d, plan.payload_bytes, where)});
    std::string quant_config;
    if (edited) {
      MIMO_ASSIGN_OR_RETURN(quant_config, HfQuantConfig(d.quantization));
    }
    if (!quant_config.empty()) plan.texts.push_back({kHfQuantConfigName, std::move(quant_config)});
    for (const CarriedFile& file : catalogue_.carried) {
      if (options_.text_only && file.name.rfind("audio_tokenizer/", 0) == 0) continue;
      if (edited && file.name == kHfQuantConfigName) continue;  // it would contradict config.json
      plan.carried.push_back(file.name);
    }
    AddNotes(d);
    return {};
  }

  void AddNotes(const HfDescription& d) {
    std::vector<std::string>& notes = builder_.plan().notes;
    if (verdict_.assumed)
      notes.push_back("the source layout " + verdict_.layout.ToString() + " is assumed by the documented rule (" +
                      verdict_.basis + "); --source-qkv overrides it");
    if (target_.fused() && !keeps_fp8_)
      notes.push_back("engines read unquantized fused QKV as plain [Q;K;V]: --qkv split is what they load");
    if (target_.fused() && keeps_fp8_ && target_ != verdict_.layout && target_.chunks < d.global.kv_heads)
      notes.push_back("released engines take the chunk count from num_key_value_heads (" +
                      std::to_string(d.global.kv_heads) + "): " + target_.ToString() +
                      " needs a reader that takes it from tp_size or mimo_layout");
    if (target_.fused() && StoredKvHeads(target_, d.global) != d.global.kv_heads)
      notes.push_back("KV heads are replicated: config.json says " + std::to_string(StoredKvHeads(target_, d.global)) +
                      " KV heads, each rank at TP " + std::to_string(target_.chunks) + " takes its chunk as it is");
    if (!straddling_layers_.empty() && options_.on_straddle == StraddlePolicy::kBf16)
      notes.push_back("attention of " + std::to_string(straddling_layers_.size()) +
                      " layers becomes BF16 (--on-straddle bf16)");
    if (maybe_exact_ > 0)
      notes.push_back(
          std::to_string(maybe_exact_) +
          " weights should take an exact path: their scales are powers of two; the manifest counts the blocks that do");
    if (const Recipe* recipe = chooser_->recipe(); recipe != nullptr && !recipe->engines.empty()) {
      std::string engines;
      for (const RecipeEngine& engine : recipe->engines)
        engines += (engines.empty() ? "" : ", ") + engine.name + " " + engine.status;
      notes.push_back("recipe " + recipe->name + ": " + engines + " (docs/recipes.md says why)");
    }
  }

  Plan Finish() {
    Plan& plan = builder_.plan();
    plan.options = options_;
    plan.source_fingerprint = catalogue_.Fingerprint();
    plan.source_layout = verdict_;
    for (uint32_t i = 0; i < catalogue_.arrays.size(); ++i) {
      SourceFate fate{i, Fate::kUsed, ""};
      if (!builder_.used(i)) {
        fate.fate = Fate::kDropped;
        fate.reason = dropped_[i].empty() ? "not needed" : dropped_[i];
      }
      plan.fates.push_back(std::move(fate));
    }
    plan.digest = PlanDigest(catalogue_, plan);
    return std::move(plan);
  }

  const Catalogue& catalogue_;
  const Inventory& inventory_;
  const LayoutVerdict& verdict_;
  const PlanOptions& options_;
  const SurveyFacts& facts_;
  StorageChooser* chooser_ = nullptr;
  PlanBuilder builder_;
  QkvLayout target_;
  std::vector<std::string> dropped_;            // reasons, by catalogue array
  std::vector<std::string> straddling_layers_;  // whose blocks would be re-quantized, when that is not wanted
  uint64_t rounded_ = 0;                        // weights whose decoded values need rounding
  uint64_t maybe_exact_ = 0;                    // weights that an exact path may take
  bool keeps_fp8_ = false;                      // attention is block FP8, in and out
  struct FusedMember {
    std::string label;
    EncodedRequest request;
    uint32_t near = kNone;
  };
  // By (mtp, layer, expert, what they fuse to).
  std::map<std::tuple<bool, int32_t, int32_t, std::string>, std::vector<FusedMember>> fused_;
};

}  // namespace

Result<Plan> MakePlan(const Catalogue& catalogue, const Inventory& inventory, const LayoutVerdict& source,
                      const PlanOptions& options, const SurveyFacts& facts) {
  return Planner(catalogue, inventory, source, options, facts).Make();
}

}  // namespace mimo
