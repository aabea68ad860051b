// Every weight of a conversion as a Hugging Face checkpoint has it: the draft that forms arrange into their own.

#include <map>
#include <set>
#include <tuple>

#include "lib/draft/attention.h"
#include "lib/draft/resize.h"
#include "lib/draft/widen.h"
#include "lib/forms/form.h"
#include "lib/forms/fp8_scales.h"
#include "lib/forms/hf/cache_scales.h"
#include "lib/forms/unknown.h"
#include "lib/model/family.h"
#include "lib/model/role_groups.h"

namespace mimo {
namespace {

class LogicalPlanner {
 public:
  explicit LogicalPlanner(Planning* p)
      : p_(*p),
        catalogue_(p->catalogue),
        inventory_(p->inventory),
        options_(p->options),
        target_(p->target),
        draft_(p->draft),
        tally_(p->tally),
        resizes_(p->target.resizes(p->catalogue.config)) {
    if (options_.fold_value_scale) fold_ = static_cast<float>(*catalogue_.config.value_scale);
  }

  Status Fill() {
    MIMO_RETURN_IF_ERROR(PlanUnknown());
    for (const Weight& weight : inventory_.weights)
      if (HasBlockGrid(weight.storage) && weight.input != kNone)
        draft_.SetReason(weight.input, "for the activations of a weight that is not kept as FP8");
    for (const AttentionWeights& a : inventory_.attention) MIMO_RETURN_IF_ERROR(PlanAttentionLayer(a));
    for (const Weight& weight : inventory_.weights)
      if (!IsAttentionProjection(weight.id.role)) MIMO_RETURN_IF_ERROR(PlanWeight(weight));
    MIMO_RETURN_IF_ERROR(PlanCacheScales(&p_));
    return PlanFused();
  }

 private:
  Status PlanUnknown() {
    for (uint32_t array : inventory_.unknown) {
      const StoredArray& stored = catalogue_.arrays[array];
      if (options_.unknown == UnknownPolicy::kCarry) {
        draft_.BeginGroup(stored.name);
        draft_.AddUnchanged(array);
      } else if (options_.unknown == UnknownPolicy::kDrop) {
        draft_.SetReason(array, "unknown tensor, --unknown drop");
      } else {
        std::vector<std::string> names;
        for (const uint32_t unknown : inventory_.unknown) names.push_back(catalogue_.arrays[unknown].name);
        return RefuseUnknown(catalogue_.config.family->title, names,
                             JoinPath(catalogue_.root, catalogue_.files[stored.file].name));
      }
    }
    return {};
  }

  // What the projections of a layer are stored as: one choice for all, for engines run them as one.
  Result<Choice> ChooseAttention(const AttentionWeights& a, AttentionRequest* request) {
    const Weight& first = inventory_.weights[a.first()];
    std::vector<Role> roles = {Role::kAttnQkv};
    if (!target_.qkv.fused()) roles = {Role::kAttnQ, Role::kAttnK, Role::kAttnV};
    std::array<std::optional<float>, 3> input_scales;
    Choice chosen;
    for (size_t i = 0; i < roles.size(); ++i) {
      TensorId id = first.id;
      id.role = roles[i];
      const std::string name = catalogue_.table->NameOf(id);
      MIMO_ASSIGN_OR_RETURN(const Choice choice, ChooseStorage(&p_, first, id, name));
      input_scales[i] = choice.input_scale;
      if (i == 0) chosen = choice;
      if (choice.kind != chosen.kind || (choice.kind == Choice::Kind::kPlain && choice.codec != chosen.codec) ||
          (choice.kind == Choice::Kind::kEncode && choice.encoding != chosen.encoding) ||
          choice.input_scale != chosen.input_scale)
        return UsageError("a recipe tells the attention projections of one layer apart")
            .Expected("one type for q, k and v")
            .Found(name + " differs from " + std::string(RoleName(roles[0])))
            .Advice("widen the rule");
    }
    if (chosen.kind == Choice::Kind::kEncode && chosen.encoding.codec == Codec::kFp8Block &&
        target_.qkv.kind == QkvKind::kSplit)
      return UsageError("block FP8 that is made anew has a grid for each of q, k and v")
          .Expected("--qkv split:independent or fused")
          .Found(target_.qkv.ToString());
    if (chosen.kind == Choice::Kind::kRename && HasBlockGrid(first.storage)) {  // what is moved gets its type as well
      const bool named = catalogue_.arrays[first.scale].id.part == chosen.arrays.scales;
      const bool bytes = catalogue_.arrays[first.array].dtype == DType::kU8;
      if (chosen.as_released && first.in_blocks()) request->as_released = chosen.arrays.scales;
      request->as_fp8 = bytes && (named || request->as_released);
      if (request->as_fp8 || request->as_released) chosen.kind = Choice::Kind::kKeep;
    }
    if (target_.decodes && chosen.kind == Choice::Kind::kKeep && first.storage != Storage::kPlain)
      chosen = Choice::Plain(Codec::kBf16);
    if (chosen.kind == Choice::Kind::kPlain) request->decode = chosen.codec;
    if (chosen.kind == Choice::Kind::kEncode)
      request->encode = AttentionRequest::Encode{chosen.encoding, chosen.arrays, input_scales};
    return chosen;
  }

  Status PlanAttentionLayer(const AttentionWeights& a) {
    if (a.first() == kNone) return {};
    const Weight& first = inventory_.weights[a.first()];
    if (const std::string why = p_.form.WhyDropped(p_, first.id); !why.empty()) {
      for (const uint32_t weight : a.in_order())
        if (weight != kNone) draft_.Drop(inventory_.weights[weight], why);
      return {};
    }
    const bool windowed = catalogue_.config.windowed_at(a.layer, a.mtp);
    AttentionRequest request;
    request.weights = &a;
    const bool grafted = p_.like != nullptr && a.first() >= p_.like->first_grafted;
    const QkvLayout& layout = grafted ? p_.like->layout : p_.layout.layout;
    // Without blocks bands say nothing.
    const int64_t block_rows = first.in_blocks() ? first.block_rows : target_.block_rows;
    request.source = BuildQkvMap(layout, LogicalShape(catalogue_.config, windowed), block_rows);
    request.target = BuildQkvMap(target_.qkv, target_.model.attention(windowed), target_.block_rows);
    MIMO_ASSIGN_OR_RETURN(Choice choice, ChooseAttention(a, &request));
    if (IsMixed(a)) MIMO_RETURN_IF_ERROR(ChooseForMixed(a, &choice, &request));
    MIMO_RETURN_IF_ERROR(CheckMovable(a, choice));
    MIMO_RETURN_IF_ERROR(CheckScalesOf(p_, request, choice));
    request.equal_scales = HasEqual(p_, a, p_.facts.equal_scales);
    if (options_.fold_value_scale == FoldInto::kV) MIMO_RETURN_IF_ERROR(FoldIntoV(first, choice, &request));
    if (choice.kind == Choice::Kind::kRename) {
      PlanRenamed(a, choice);
      return {};
    }
    const bool decodes = options_.on_straddle == StraddlePolicy::kBf16 && !options_.lossless;
    if (PlanAttention(draft_, request, decodes)) {
      Rounds(a, choice);
      return {};
    }
    tally_.decoded.push_back(first.array);
    request.decode = Codec::kBf16;
    PlanAttention(draft_, request, false);
    Rounds(a, Choice::Plain(Codec::kBf16));
    return {};
  }

  // Whether q, k and v of a layer are stored as different things: somebody has merged or decoded some of them.
  bool IsMixed(const AttentionWeights& a) const {
    if (a.fused()) return false;
    const Weight& q = inventory_.weights[a.q];
    return std::ranges::any_of(std::array{a.k, a.v}, [&](uint32_t other) {
      const Weight& w = inventory_.weights[other];
      return w.storage != q.storage || w.span != q.span ||
             (w.storage == Storage::kPlain && catalogue_.arrays[w.array].dtype != catalogue_.arrays[q.array].dtype);
    });
  }

  // Such projections are kept one by one where their layout stays; become values of one type that holds all of them, or
  // codes of one codec. What is quantized cannot be moved together with what is not.
  Status ChooseForMixed(const AttentionWeights& a, Choice* choice, AttentionRequest* request) const {
    if (choice->kind == Choice::Kind::kEncode) return {};
    bool plain = true, wide = false;
    std::set<DType> types;
    for (const uint32_t weight : a.in_order()) {
      const Weight& w = inventory_.weights[weight];
      plain &= w.storage == Storage::kPlain;
      if (w.storage != Storage::kPlain) continue;
      types.insert(catalogue_.arrays[w.array].dtype);
      wide |= catalogue_.arrays[w.array].dtype == DType::kF32;
    }
    const bool values = choice->kind == Choice::Kind::kPlain || (plain && !StaysAsItIs()) ||
                        (p_.chooser.recipe() == nullptr && options_.dtype != DTypeChoice::kKeep);
    if (!values && choice->kind == Choice::Kind::kKeep && StaysAsItIs()) return {};
    if (!values)
      return BadInput("q, k and v of one layer are stored as different things, and cannot be moved together")
          .Id("fp8.mixed_attention")
          .File(JoinPath(catalogue_.root, catalogue_.files[catalogue_.arrays[inventory_.weights[a.q].array].file].name))
          .Tensor(catalogue_.arrays[inventory_.weights[a.q].array].name)
          .Expected("q, k and v alike")
          .Found("some quantized, some not, or under scales of another kind")
          .Advice("--dtype bf16 stores all of the model as values, --qkv keep leaves each as it is");
    Codec codec = Codec::kBf16;
    if (options_.dtype == DTypeChoice::kFp16) codec = Codec::kFp16;
    if (options_.dtype == DTypeChoice::kFp32 || wide || (types.size() > 1 && options_.dtype == DTypeChoice::kKeep))
      codec = Codec::kFp32;
    *choice = Choice::Plain(codec);
    request->decode = codec;
    return {};
  }

  // Whether attention keeps its layout.
  bool StaysAsItIs() const { return p_.layout.layout == target_.qkv && !resizes_ && !options_.fold_value_scale; }

  // V of block FP8 takes the factor in the scales of its blocks; where it shares them, the block is quantized again.
  Status FoldIntoV(const Weight& first, const Choice& choice, AttentionRequest* request) {
    request->fold = fold_;
    const std::string name = catalogue_.arrays[first.array].name;
    if (choice.kind == Choice::Kind::kEncode || choice.kind == Choice::Kind::kRename)
      return UsageError("V cannot take in the value scale while it is quantized")
          .Expected("two runs: --fold-value-scale v first, then the recipe")
          .Found(name);
    if (first.in_blocks() && choice.kind == Choice::Kind::kKeep) return {};
    const bool rows_or_whole = HasBlockGrid(first.storage) && choice.kind == Choice::Kind::kKeep;
    if (target_.qkv.fused() && !rows_or_whole)
      return UsageError("V of unquantized fused attention cannot be scaled apart from Q and K")
          .Expected("--qkv split")
          .Found(name)
          .Advice("or --fold-value-scale o");
    if (first.storage != Storage::kPlain && choice.kind == Choice::Kind::kKeep)
      return UsageError("V in this codec cannot take in the value scale")
          .Expected("block FP8 or values")
          .Found(name)
          .Advice("--fold-value-scale o");
    if (choice.kind == Choice::Kind::kKeep) {  // values: rounded anew, in their own type
      draft_.DecodedSource(first);
      request->decode = draft_.sources[draft_.Source(first.array)].codec;
    }
    tally_.rounded.push_back(first.array);
    return {};
  }

  // Global scales cannot be joined without new arithmetic, and names are changed array by array.
  Status CheckMovable(const AttentionWeights& a, const Choice& choice) const {
    const Weight& first = inventory_.weights[a.first()];
    const bool same = p_.layout.layout == target_.qkv && !resizes_;
    if (!choice.moves() || same) return {};
    const std::string name = catalogue_.arrays[first.array].name;
    if (first.storage == Storage::kNvfp4 && !a.fused())
      return UsageError("NVFP4 projections with global scales of their own cannot be fused as they are")
          .Expected("--qkv keep, or attention of another type")
          .Found(name);
    if (choice.kind == Choice::Kind::kRename)
      return UsageError("quantized attention cannot change its layout and its dialect at once")
          .Expected("--qkv keep, or the dialect of the source")
          .Found(name)
          .Advice("two runs: the layout first, then the recipe");
    return {};
  }

  void PlanRenamed(const AttentionWeights& a, const Choice& choice) {
    draft_.BeginGroup(catalogue_.arrays[inventory_.weights[a.first()].array].name);
    for (const uint32_t weight : a.in_order())
      if (weight != kNone) draft_.AddRenamed(inventory_.weights[weight], choice.arrays);
  }

  // Keeps count of what rounds. Exact paths are known only when the data is seen; under --lossless the run checks them.
  void Rounds(const Weight& weight, const Choice& choice) {
    const bool exact = MayBeExact(weight, catalogue_.arrays[weight.array].dtype, choice);
    // The survey has seen the scales of attention; those of experts are of the same making.
    const SurveyFacts& facts = p_.facts;
    const bool powers_of_two = facts.attention_scales > 0 && facts.power_of_two_scales == facts.attention_scales;
    if (choice.kind == Choice::Kind::kEncode && exact && (weight.storage == Storage::kMxfp4 || powers_of_two))
      tally_.maybe_exact.push_back(weight.array);
    // NVFP4 that was made from MXFP4 goes back exactly, other NVFP4 does not: only the run can tell.
    const bool back = choice.kind == Choice::Kind::kEncode && choice.encoding.codec == Codec::kMxfp4 &&
                      weight.storage == Storage::kNvfp4 && options_.lossless;
    if (!exact && !back) tally_.rounded.push_back(weight.array);
  }
  void Rounds(const AttentionWeights& a, const Choice& choice) {
    for (const uint32_t weight : a.in_order())
      if (weight != kNone) Rounds(inventory_.weights[weight], choice);
  }

  // Whether the checkpoint whose config a run takes stores this plain weight so.
  bool ReferenceHas(const std::string& name, DType dtype) const {
    if (p_.like == nullptr) return false;
    const StoredArray* array = catalogue_.Find(kReferencePrefix + name);
    return array != nullptr && array->dtype == dtype;
  }

  // What a plain weight is kept as: some types are another form's or the run's, and are undone.
  void ChooseType(const Weight& weight, const std::string& name, Choice* choice) {
    const DType dtype = catalogue_.arrays[weight.array].dtype;
    if (weight.id.role == Role::kRouter && choice->kind == Choice::Kind::kKeep && dtype == DType::kF32) {
      if (target_.rounds_router) tally_.rounded.push_back(weight.array);
      const bool rounded = options_.dtype == DTypeChoice::kKeep || options_.dtype == DTypeChoice::kBf16;
      if (rounded && (target_.narrows_router || ReferenceHas(name, DType::kBF16)))
        *choice = Choice::Plain(Codec::kBf16);
    } else if (weight.storage == Storage::kPlain && dtype != DType::kF32 && ValueCodecOf(dtype) &&
               ReferenceHas(name, DType::kF32)) {
      *choice = Choice::Plain(Codec::kFp32);
    }
  }

  Status PlanWeight(const Weight& weight) {
    const StoredArray& stored = catalogue_.arrays[weight.array];
    if (const std::string why = p_.form.WhyDropped(p_, weight.id); !why.empty()) {
      draft_.Drop(weight, why);
      return {};
    }
    // "attention_sink_bias" has no parts; "weight_packed" is "weight" to everyone but its reader.
    const std::string name = stored.id.part == Part::kPacked ? NameOfPart(stored.name, Part::kWeight) : stored.name;
    MIMO_ASSIGN_OR_RETURN(Choice choice, ChooseStorage(&p_, weight, weight.id, name));
    Rounds(weight, choice);
    ChooseType(weight, name, &choice);
    std::vector<int64_t> shape = ElementShape(catalogue_, weight);
    bool changed = false;
    if (resizes_) {
      MIMO_ASSIGN_OR_RETURN(std::vector<int64_t> resized, ResizedShape(catalogue_, weight, target_.model));
      changed = resized != shape;
      shape = std::move(resized);
    }
    const bool folds = fold_ && options_.fold_value_scale == FoldInto::kO && weight.id.role == Role::kAttnO;
    if (folds) tally_.rounded.push_back(weight.array);
    const bool made = choice.kind == Choice::Kind::kRename || choice.kind == Choice::Kind::kEncode;
    if (folds && made)
      return UsageError("a weight that takes in the value scale cannot be quantized in the same run")
          .Expected("two runs: --fold-value-scale o first, then the recipe")
          .Found(name);
    if (choice.kind == Choice::Kind::kEncode) return PlanEncoded(weight, choice, name, shape);
    draft_.BeginGroup(stored.name);
    if (choice.kind == Choice::Kind::kRename && choice.as_released && weight.in_blocks() && !changed) {
      AddAsReleased(draft_, weight, choice.arrays);
    } else if (choice.kind == Choice::Kind::kRename) {
      draft_.AddRenamed(weight, choice.arrays);
      if (changed) ResizeAdded(draft_, weight, shape);
    } else if (choice.kind == Choice::Kind::kPlain) {
      PlanPlain(weight, choice.codec, name, shape);
      if (folds) Scale(&draft_.group().outputs.back());
    } else {
      if (changed) {
        draft_.AddKept(weight);
        ResizeAdded(draft_, weight, shape);
      } else if (weight.in_blocks() && weight.block_rows != target_.block_rows) {
        AddRegridded(draft_, weight, target_.block_rows);
      } else {
        draft_.AddKept(weight);
      }
      if (folds) MIMO_RETURN_IF_ERROR(FoldKept(weight));
    }
    if (choice.input_scale) draft_.AddInputScale(weight, choice.arrays, *choice.input_scale);
    return {};
  }

  // Weights that engines run as one wait for each other (PlanFused).
  Status PlanEncoded(const Weight& weight, const Choice& choice, const std::string& name,
                     const std::vector<int64_t>& shape) {
    EncodedRequest request;
    request.id = weight.id;
    request.name = name;
    request.rows = shape[0];
    request.cols = shape[1];
    if (const int64_t group = kernels::GroupColumns(choice.encoding);
        !HasBlockScales(choice.encoding.codec) && request.cols % group != 0)
      return UsageError("padded rows are not whole groups of their codec")
          .Expected("a multiple of " + std::to_string(group) + " columns")
          .Found(name + ": " + std::to_string(request.cols));
    request.encoding = choice.encoding;
    request.arrays = choice.arrays;
    request.input_scale = choice.input_scale;
    request.pieces = ResizedPieces(draft_.DecodedSource(weight), ElementShape(catalogue_, weight), shape);
    // Only NVFP4 has something to share; without it every weight is a group of its own.
    const std::string_view fuse =
        choice.encoding.codec == Codec::kNvfp4 ? catalogue_.table->FuseOf(weight.id) : std::string_view();
    const std::string label = fuse.empty() ? name : name.substr(0, name.rfind('.', name.rfind('.') - 1));
    fused_[{weight.id.mtp, weight.id.layer, weight.id.expert, fuse.empty() ? name : std::string(fuse)}].push_back(
        {label, std::move(request), weight.array});
    return {};
  }

  void Scale(OutputArray* output) const {
    output->adjust = Adjust::kScale;
    output->factor = *fold_;
    output->unchanged = false;
  }

  // The arrays of a kept weight were just added: block FP8 takes the factor in its scales, values are rounded anew.
  Status FoldKept(const Weight& weight) {
    if (HasBlockGrid(weight.storage)) {
      const StoredArray& scale = catalogue_.arrays[weight.scale];
      if (scale.dtype != DType::kF32)
        return UsageError("scales of this type cannot take in the value scale without rounding")
            .Expected("F32 scales; or two runs: --dtype bf16 first, then --fold-value-scale o")
            .Found(std::string(DTypeName(scale.dtype)) + " in " + scale.name);
      for (DraftOutput& output : draft_.group().outputs)
        if (output.name == scale.name) Scale(&output);
      return {};
    }
    OutputArray& output = draft_.group().outputs.back();
    Scale(&output);
    if (weight.scale != kNone) return {};
    draft_.DecodedSource(weight);
    output.transform = Transform::kConvert;
    output.target_codec = draft_.sources[output.pieces[0].source].codec;
    return {};
  }

  void PlanPlain(const Weight& weight, Codec codec, const std::string& name, const std::vector<int64_t>& shape) {
    OutputArray output;
    output.name = name;
    output.id = weight.id;
    output.target_codec = codec;
    output.dtype = DTypeOf(codec);
    output.shape = shape;
    output.transform = Transform::kConvert;
    output.pieces = ResizedPieces(draft_.DecodedSource(weight), ElementShape(catalogue_, weight), shape);
    draft_.AddOutput(std::move(output), weight.array);
  }

  // Weights that engines run as one are encoded together, under one global scale.
  Status PlanFused() {
    for (auto& [key, members] : fused_) {
      draft_.BeginGroup(members[0].label);
      const WeightArrays& arrays = members[0].request.arrays;
      const bool input = members[0].request.input_scale && arrays.input;
      draft_.group().outputs.reserve(members.size() * (2 + (arrays.global ? 1 : 0) + (input ? 1 : 0)));
      for (FusedMember& member : members) {
        if (member.request.input_scale != members[0].request.input_scale)
          return UsageError("different input scales for weights that engines run as one")
              .Expected("equal input scales")
              .Found(member.request.name)
              .Advice("give " + members[0].request.name + " the same");
        draft_.AddEncoded(member.request, member.near);
      }
    }
    return {};
  }

  Planning& p_;
  const Catalogue& catalogue_;
  const Inventory& inventory_;
  const PlanOptions& options_;
  const Target& target_;
  Draft& draft_;
  Tally& tally_;
  const bool resizes_;         // the dimensions of the output differ from those of the source
  std::optional<float> fold_;  // attention_value_scale, when it goes into weights
  struct FusedMember {
    std::string label;
    EncodedRequest request;
    uint32_t near = kNone;
  };
  // By (mtp, layer, expert, what they fuse to).
  std::map<std::tuple<bool, int32_t, int32_t, std::string>, std::vector<FusedMember>> fused_;
};

}  // namespace

Status Form::Fill(Planning* p) const {
  return LogicalPlanner(p).Fill();
}

}  // namespace mimo
