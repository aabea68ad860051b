#include "lib/planner/planner.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <unordered_map>

#include "lib/draft/attention.h"
#include "lib/draft/draft.h"
#include "lib/draft/filter.h"
#include "lib/draft/placement.h"
#include "lib/draft/resize.h"
#include "lib/form/hf.h"
#include "lib/form/like.h"
#include "lib/io/torch/container.h"
#include "lib/model/role_groups.h"
#include "lib/plan/words.h"
#include "lib/planner/choice.h"
#include "lib/planner/describe_output.h"
#include "lib/planner/distribute.h"
#include "lib/planner/fates.h"
#include "lib/planner/like.h"
#include "lib/planner/megatron.h"
#include "lib/planner/neuron.h"
#include "lib/planner/notes.h"
#include "lib/planner/resolve.h"
#include "lib/planner/target.h"

namespace mimo {
namespace {

class Planner {
 public:
  Planner(const Catalogue& catalogue, const Inventory& inventory, const LayoutVerdict& verdict,
          const PlanOptions& options, const SurveyFacts& facts, const ViewedPlan* viewed)
      : catalogue_(catalogue),
        inventory_(inventory),
        verdict_(verdict),
        options_(options),
        facts_(facts),
        viewed_(viewed),
        draft_(catalogue, inventory) {}

  Result<Plan> Make() {
    MIMO_ASSIGN_OR_RETURN(StorageChooser chooser, StorageChooser::Make(catalogue_, options_));
    chooser_ = &chooser;
    if (viewed_ != nullptr && viewed_->view.trained) chooser.NarrowRuns();
    MIMO_ASSIGN_OR_RETURN(target_,
                          ChooseTarget(catalogue_, inventory_, verdict_, options_, chooser, viewed_ != nullptr));
    resizes_ = target_.resizes(catalogue_.config);
    if (options_.fold_value_scale) fold_ = static_cast<float>(*catalogue_.config.value_scale);
    MIMO_RETURN_IF_ERROR(PlanUnknown());
    MIMO_RETURN_IF_ERROR(PlanAttentionLayers());
    for (const Weight& weight : inventory_.weights)
      if (!IsAttentionProjection(weight.id.role)) MIMO_RETURN_IF_ERROR(PlanWeight(weight));
    MIMO_RETURN_IF_ERROR(PlanFused());
    MIMO_RETURN_IF_ERROR(chooser.CheckAllUsed());
    MIMO_RETURN_IF_ERROR(ApplyFilter(options_, &draft_));
    MIMO_RETURN_IF_ERROR(CheckPromises());
    const bool lossless = rounded_ == 0 && StraddlingBlocks() == 0;
    if (options_.format == FormKind::kShardedState)
      MIMO_RETURN_IF_ERROR(CutForRanks(draft_, options_, chooser_->keeps(), &target_));
    if (options_.to == TargetKind::kNxdi)
      MIMO_RETURN_IF_ERROR(ToNeuron(draft_, options_.expert_codes.value_or(ExpertCodes::kHalve)));
    const bool megatron = options_.to == TargetKind::kMegatron;
    std::vector<PlannedTensor> tensors;
    if (megatron) MIMO_RETURN_IF_ERROR(ToMegatron(draft_, target_.model, options_, &tensors));
    draft_.VisitOutputs([&](DraftOutput& output) { output.unchanged &= viewed_ == nullptr; });  // a view shows no files
    if (target_.restores && catalogue_.origin && catalogue_.origin->index && options_.max_shard_bytes == 0) {
      std::unordered_map<std::string, std::string> home;
      for (const auto& [tensor, file] : catalogue_.origin->index->weight_map) home.emplace(tensor, file);
      draft_.VisitOutputs([&](DraftOutput& output) {
        if (const auto found = home.find(output.name); found != home.end()) output.file_name = found->second;
      });
    }
    PlacementOptions placement;
    placement.max_shard_bytes = options_.max_shard_bytes;
    if (megatron) placement.container = &TorchItemsContainer();
    if (!target_.restores) placement.layout = target_.qkv.ToString();
    const std::vector<std::string> reasons = draft_.reasons();
    Plan plan = PlaceOutputs(std::move(draft_), placement);
    plan.target_layout = target_.qkv;
    plan.options = options_;
    plan.lossless = lossless;
    plan.notes = std::move(target_.notes);
    if (megatron) MIMO_RETURN_IF_ERROR(DescribeMegatron(tensors, target_.model, &plan));
    MIMO_RETURN_IF_ERROR(
        DescribeOutput({catalogue_, inventory_, verdict_, options_, target_, *chooser_, viewed_ != nullptr}, &plan));
    if (viewed_ != nullptr) {
      MIMO_RETURN_IF_ERROR(ReadFromStored(viewed_->view, viewed_->stored, &plan));
      GroupFiles(plan);
    }
    AddNotes({verdict_, target_, options_, chooser_->recipe(), straddling_layers_.size(), maybe_exact_, resizes_},
             &plan.notes);
    plan.form = WordOf(kForms, options_.form());
    plan.source_layout = verdict_;
    FinishPlan(
        viewed_ != nullptr ? viewed_->stored : catalogue_,
        [&](uint32_t array) { return viewed_ != nullptr ? Unread(array) : reasons[array]; }, &plan);
    return plan;
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
        return BadInput("a tensor that no model table knows")
            .File(JoinPath(catalogue_.root, catalogue_.files[stored.file].name))
            .Tensor(stored.name)
            .Expected("tensors of the MiMo-V2 family only")
            .Found(std::to_string(inventory_.unknown.size()) + " unknown")
            .Advice("pass --unknown carry to copy such tensors as they are, or --unknown drop");
      }
    }
    return {};
  }

  // What the projections of a layer are stored as: one choice for all, for engines run them as one.
  Result<Choice> ChooseAttention(const AttentionWeights& a, AttentionRequest* request) {
    const Weight& first = inventory_.weights[a.fused() ? a.qkv : a.q];
    std::vector<Role> roles = {Role::kAttnQkv};
    if (!target_.qkv.fused()) roles = {Role::kAttnQ, Role::kAttnK, Role::kAttnV};
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
    if (target_.decodes && chosen.kind == Choice::Kind::kKeep && first.storage != Storage::kPlain) {
      chosen.kind = Choice::Kind::kPlain;
      chosen.codec = Codec::kBf16;
    }
    if (chosen.kind == Choice::Kind::kPlain) request->decode = chosen.codec;
    if (chosen.kind == Choice::Kind::kEncode)
      request->encode = AttentionRequest::Encode{chosen.encoding, chosen.arrays, input_scales};
    return chosen;
  }

  Status PlanAttentionLayers() {
    for (const AttentionWeights& a : inventory_.attention) {
      if (a.qkv == kNone && a.q == kNone) continue;
      if (a.mtp && options_.to == TargetKind::kNxdi) {
        for (const uint32_t weight : {a.qkv, a.q, a.k, a.v})
          if (weight != kNone) draft_.Drop(inventory_.weights[weight], kNoMtp);
        continue;
      }
      const Weight& first = inventory_.weights[a.fused() ? a.qkv : a.q];
      const bool windowed = IsWindowed(catalogue_.config, a);
      AttentionRequest request;
      request.weights = &a;
      const bool grafted =
          viewed_ != nullptr && viewed_->like != nullptr && (a.fused() ? a.qkv : a.q) >= viewed_->like->first_grafted;
      const QkvLayout& layout = grafted ? viewed_->like->layout : verdict_.layout;
      request.source = BuildQkvMap(layout, LogicalShape(catalogue_.config, windowed), first.block_rows);
      request.target = BuildQkvMap(target_.qkv, target_.model.attention(windowed), target_.block_rows);
      request.target_block_rows = target_.block_rows;
      MIMO_ASSIGN_OR_RETURN(const Choice choice, ChooseAttention(a, &request));
      MIMO_RETURN_IF_ERROR(CheckMovable(a, choice));
      if (options_.fold_value_scale == FoldInto::kV) MIMO_RETURN_IF_ERROR(FoldIntoV(first, choice, &request));
      if (choice.kind == Choice::Kind::kRename) {
        PlanRenamed(a, choice);
        continue;
      }
      const bool refuse = options_.on_straddle != StraddlePolicy::kRequantize || options_.lossless;
      if (PlanAttention(draft_, request, refuse) == AttentionResult::kDone) {
        Rounds(first, choice);
        continue;
      }
      straddling_layers_.push_back(std::string(a.mtp ? "mtp " : "") + std::to_string(a.layer));
      if (options_.on_straddle == StraddlePolicy::kBf16 && !options_.lossless) {
        request.decode = Codec::kBf16;
        PlanAttention(draft_, request, false);
        Choice decoded;
        decoded.kind = Choice::Kind::kPlain;
        Rounds(first, decoded);
      }
    }
    return {};
  }

  // V of block FP8 takes the factor in the scales of its blocks; where it shares them, the block is quantized again.
  Status FoldIntoV(const Weight& first, const Choice& choice, AttentionRequest* request) {
    request->fold = fold_;
    const std::string name = catalogue_.arrays[first.array].name;
    if (choice.kind == Choice::Kind::kEncode || choice.kind == Choice::Kind::kRename)
      return UsageError("V cannot take in the value scale while it is quantized")
          .Expected("two runs: --fold-value-scale v first, then the recipe")
          .Found(name);
    const bool codes = HasBlockGrid(first.storage) && choice.kind == Choice::Kind::kKeep;
    if (codes) return {};
    if (target_.qkv.fused())
      return UsageError("V of unquantized fused attention cannot be scaled apart from Q and K")
          .Expected("--qkv split")
          .Found(name)
          .Advice("or --fold-value-scale o");
    if (first.storage != Storage::kPlain && !HasBlockGrid(first.storage) && choice.kind == Choice::Kind::kKeep)
      return UsageError("V in this codec cannot take in the value scale")
          .Expected("block FP8 or values")
          .Found(name)
          .Advice("--fold-value-scale o");
    if (choice.kind == Choice::Kind::kKeep) {  // values: rounded anew, in their own type
      draft_.DecodedSource(first);
      request->decode = draft_.sources[draft_.Source(first.array)].codec;
    }
    ++rounded_;
    return {};
  }

  // Global scales cannot be joined without new arithmetic, and names are changed array by array.
  Status CheckMovable(const AttentionWeights& a, const Choice& choice) const {
    const Weight& first = inventory_.weights[a.fused() ? a.qkv : a.q];
    const bool moves = choice.kind == Choice::Kind::kKeep || choice.kind == Choice::Kind::kRename;
    const bool same = verdict_.layout == target_.qkv && !resizes_;
    if (!moves || same) return {};
    const std::string name = catalogue_.arrays[first.array].name;
    if (first.storage == Storage::kNvfp4 && !a.fused())
      return UsageError("NVFP4 projections with global scales of their own cannot be fused as they are")
          .Expected("--qkv keep, or attention of another type")
          .Found(name);
    if (choice.kind == Choice::Kind::kRename)
      return UsageError("quantized attention cannot change its layout and its dialect at once")
          .Expected("--qkv keep, or the dialect of the source")
          .Found(name);
    return {};
  }

  void PlanRenamed(const AttentionWeights& a, const Choice& choice) {
    draft_.BeginGroup(catalogue_.arrays[inventory_.weights[a.fused() ? a.qkv : a.q].array].name);
    for (const uint32_t weight : {a.qkv, a.q, a.k, a.v})
      if (weight != kNone) draft_.AddRenamed(inventory_.weights[weight], choice.arrays);
  }

  // Keeps count of what rounds. Exact paths are known only when the data is seen; under --lossless the run checks them.
  void Rounds(const Weight& weight, const Choice& choice) {
    const bool exact = MayBeExact(weight, catalogue_.arrays[weight.array].dtype, choice);
    // The survey has seen the scales of attention; those of experts are of the same making.
    const bool powers_of_two = facts_.attention_scales > 0 && facts_.power_of_two_scales == facts_.attention_scales;
    if (choice.kind == Choice::Kind::kEncode)
      maybe_exact_ += exact && (weight.storage == Storage::kMxfp4 || powers_of_two);
    if (!exact) ++rounded_;
  }

  // Whether the checkpoint whose config a run takes stores this plain weight so.
  bool ReferenceHas(const std::string& name, DType dtype) const {
    if (viewed_ == nullptr || viewed_->like == nullptr) return false;
    const StoredArray* array = catalogue_.Find(kReferencePrefix + name);
    return array != nullptr && array->dtype == dtype;
  }

  static constexpr char kNoMtp[] = "Neuron's form has no MTP layers";

  Status PlanWeight(const Weight& weight) {
    const StoredArray& stored = catalogue_.arrays[weight.array];
    const bool neuron = options_.to == TargetKind::kNxdi;
    if (IsTower(weight.id.role) && (neuron || options_.to == TargetKind::kMegatron || options_.text_only)) {
      draft_.Drop(weight, neuron               ? "Neuron's form has no towers"
                          : options_.text_only ? "tower, --text-only"
                                               : "Megatron's model has no towers");
      return {};
    }
    if (weight.id.mtp && neuron) {
      draft_.Drop(weight, kNoMtp);
      return {};
    }
    // "attention_sink_bias" has no parts; "weight_packed" is "weight" to everyone but its reader.
    const std::string name = stored.id.part == Part::kPacked ? NameOfPart(stored.name, Part::kWeight) : stored.name;
    MIMO_ASSIGN_OR_RETURN(Choice choice, chooser_->Choose(weight, weight.id, name));
    Rounds(weight, choice);
    const LayoutMarker* marker = catalogue_.config.marker ? &*catalogue_.config.marker : nullptr;
    if (weight.id.role == Role::kRouter && choice.kind == Choice::Kind::kKeep && stored.dtype == DType::kF32) {
      // The engine's type: rank files may round it, and the way back undoes what widened it.
      if (options_.format && catalogue_.config.router_dtype == "bfloat16") ++rounded_;
      const bool rounded = options_.dtype == DTypeChoice::kKeep || options_.dtype == DTypeChoice::kBf16;
      const bool widened = options_.to == TargetKind::kHf && marker != nullptr && marker->router == DType::kBF16;
      if (rounded && (widened || ReferenceHas(name, DType::kBF16))) {
        choice.kind = Choice::Kind::kPlain;
        choice.codec = Codec::kBf16;
      }
    } else if (weight.storage == Storage::kPlain && stored.dtype != DType::kF32 && ValueCodecOf(stored.dtype) &&
               ReferenceHas(name, DType::kF32)) {
      choice.kind = Choice::Kind::kPlain;
      choice.codec = Codec::kFp32;
    }
    std::vector<int64_t> shape = ElementShape(weight);
    bool changed = false;
    if (resizes_) {
      MIMO_ASSIGN_OR_RETURN(std::vector<int64_t> resized, ResizedShape(catalogue_, weight, target_.model));
      changed = resized != shape;
      shape = std::move(resized);
    }
    const bool folds = fold_ && options_.fold_value_scale == FoldInto::kO && weight.id.role == Role::kAttnO;
    if (folds) ++rounded_;
    if (folds && choice.kind != Choice::Kind::kKeep && choice.kind != Choice::Kind::kPlain)
      return UsageError("a weight that takes in the value scale cannot be quantized in the same run")
          .Expected("two runs: --fold-value-scale o first, then the recipe")
          .Found(name);
    if (changed && choice.kind != Choice::Kind::kKeep && choice.kind != Choice::Kind::kPlain)
      return UsageError("a weight that gets zeros cannot be quantized in the same run")
          .Expected("two runs: --recipe or --dtype first, then --pad")
          .Found(name);
    switch (choice.kind) {
      case Choice::Kind::kKeep:
        draft_.BeginGroup(stored.name);
        if (changed) {
          AddResized(draft_, weight, shape);
        } else if (HasBlockGrid(weight.storage) && weight.block_rows != target_.block_rows) {
          AddRegridded(draft_, weight, target_.block_rows);
        } else {
          draft_.AddKept(weight);
        }
        if (folds) FoldKept(weight);
        break;
      case Choice::Kind::kRename:
        draft_.BeginGroup(stored.name);
        draft_.AddRenamed(weight, choice.arrays);
        break;
      case Choice::Kind::kPlain:
        draft_.BeginGroup(stored.name);
        PlanPlain(weight, choice.codec, name, shape);
        if (folds) Scale(&draft_.group().outputs.back());
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
        request.pieces.push_back({draft_.DecodedSource(weight), 0, 0, weight.rows});
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

  void Scale(OutputArray* output) const {
    output->adjust = Adjust::kScale;
    output->factor = *fold_;
    output->unchanged = false;
  }

  // The arrays of a kept weight were just added: block FP8 takes the factor in its scales, values are rounded anew.
  void FoldKept(const Weight& weight) {
    OutputArray& output = draft_.group().outputs.back();
    if (weight.scale != kNone) {
      Scale(&output);
      return;
    }
    Scale(&output);
    draft_.DecodedSource(weight);
    output.transform = Transform::kConvert;
    output.target_codec = draft_.sources[output.pieces[0].source].codec;
  }

  std::vector<int64_t> ElementShape(const Weight& weight) const {
    std::vector<int64_t> shape = catalogue_.arrays[weight.array].shape;
    if (weight.storage != Storage::kPlain) shape.back() = weight.cols;
    return shape;
  }

  void PlanPlain(const Weight& weight, Codec codec, const std::string& name, const std::vector<int64_t>& shape) {
    OutputArray output;
    output.name = name;
    output.id = weight.id;
    output.target_codec = codec;
    output.dtype = DTypeOf(codec);
    output.shape = shape;
    output.transform = Transform::kConvert;
    const std::vector<int64_t> stored = ElementShape(weight);
    const auto last = [](const std::vector<int64_t>& s) { return s.empty() ? 1 : s.back(); };
    output.pieces =
        ResizedPieces(draft_.DecodedSource(weight), MatrixRows(stored), last(stored), output.rows(), last(shape));
    draft_.AddOutput(std::move(output), weight.array);
  }

  // Weights that engines run as one are encoded together, under one global scale.
  Status PlanFused() {
    for (auto& [key, members] : fused_) {
      draft_.BeginGroup(members[0].label);
      for (FusedMember& member : members) {
        if (member.request.input_scale != members[0].request.input_scale)
          return UsageError("different input scales for weights that engines run as one")
              .Expected("equal input scales")
              .Found(member.request.name)
              .Advice("give " + members[0].request.name + " the same");
        draft_.AddEncoded(member.request, member.near);
      }
    }
    fused_.clear();
    return {};
  }

  Status CheckPromises() {
    std::string layers;
    for (const std::string& layer : straddling_layers_) layers += (layers.empty() ? "" : ", ") + layer;
    if (!layers.empty() && (options_.lossless || options_.on_straddle == StraddlePolicy::kRefuse))
      return CheckFailed("scale blocks straddle: " + verdict_.layout.ToString() + " -> " + target_.qkv.ToString() +
                         " would re-quantize them")
          .File(catalogue_.root)
          .Expected(options_.lossless ? "nothing that rounds (--lossless)"
                                      : "no straddling blocks (--on-straddle refuse)")
          .Found("straddling blocks in the attention of layers " + layers)
          .Advice("choose another --qkv, or --on-straddle requant|bf16");
    if (options_.lossless && rounded_ > 0)
      return CheckFailed(options_.recipe ? "the recipe rounds" : "the conversion rounds")
          .File(catalogue_.root)
          .Expected("nothing that rounds (--lossless)")
          .Found(std::to_string(rounded_) + " weights whose values do not fit the target type exactly")
          .Advice("keep them (--dtype keep), or leave --lossless out");
    return {};
  }

  uint64_t StraddlingBlocks() const {
    uint64_t blocks = 0;
    for (const DraftGroup& group : draft_.groups) blocks += group.straddling_blocks;
    return blocks;
  }

  // Why an array behind a view is not read.
  std::string Unread(uint32_t array) const {
    if (viewed_->view.constants[array] != 0) return "a constant of the engine";
    return "a replica, padding, or a part of what is dropped";
  }

  const Catalogue& catalogue_;
  const Inventory& inventory_;
  const LayoutVerdict& verdict_;
  const PlanOptions& options_;
  const SurveyFacts& facts_;
  const ViewedPlan* viewed_;
  StorageChooser* chooser_ = nullptr;
  Draft draft_;
  Target target_;
  std::optional<float> fold_;                   // attention_value_scale, when it goes into weights
  bool resizes_ = false;                        // the dimensions of the output differ from those of the source
  std::vector<std::string> straddling_layers_;  // whose blocks would be re-quantized, when that is not wanted
  uint64_t rounded_ = 0;                        // weights whose decoded values need rounding
  uint64_t maybe_exact_ = 0;                    // weights that an exact path may take
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
                      const PlanOptions& options, const SurveyFacts& facts, const ViewedPlan* viewed) {
  return Planner(catalogue, inventory, source, options, facts, viewed).Make();
}

Result<Plan> MakePlan(const Checkpoint& c, const PlanOptions& options) {
  if (c.like && options.dtype == DTypeChoice::kKeep && !options.recipe) return MakeLikePlan(c, options);
  if (!c.view) return MakePlan(c.stored, c.inventory, c.layout, options, c.facts);
  const ViewedPlan viewed{*c.view, c.stored, c.like.get()};
  return MakePlan(c.view->catalogue, c.inventory, c.layout, options, c.facts, &viewed);
}

}  // namespace mimo
