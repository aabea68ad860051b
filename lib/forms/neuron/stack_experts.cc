// From a planned split Hugging Face form to the preprocessed Neuron directory (reference target-layouts.md 7.1).
#include <algorithm>
#include <map>
#include <tuple>

#include "lib/draft/cut_pieces.h"
#include "lib/forms/neuron/neuron_form.h"
#include "lib/forms/neuron/neuron_names.h"
#include "lib/model/role_groups.h"

namespace mimo {
namespace {

class NeuronPlanner {
 public:
  explicit NeuronPlanner(Planning* p)
      : draft_(p->draft),
        tally_(p->tally),
        rescale_(p->options.expert_codes == ExpertCodes::kRescale),
        centres_(p->options.router_bias == RouterBias::kCentred),
        experts_(p->draft.catalogue().config.experts) {}

  Status StackExperts() {
    std::vector<DraftGroup> planned = std::move(draft_.groups);
    draft_.groups.clear();
    std::map<std::tuple<int32_t, bool, Part>, std::vector<const DraftOutput*>> stacks;
    for (DraftGroup& group : planned) {
      if (!IsExpert(group.outputs[0].id.role)) {  // what is planned together is of one kind
        MIMO_RETURN_IF_ERROR(Rename(std::move(group)));
        continue;
      }
      for (const DraftOutput& output : group.outputs) {
        const Part part = HoldsElements(output.id.part) ? Part::kWeight : Part::kRowScale;
        stacks[{output.id.layer, output.id.role != Role::kExpertDown, part}].push_back(&output);
      }
    }
    for (const auto& [key, members] : stacks)
      MIMO_RETURN_IF_ERROR(Stack(std::get<0>(key), std::get<1>(key), std::get<2>(key), members));
    return {};
  }

 private:
  const Family& family() const { return *draft_.catalogue().config.family; }

  Status Rename(DraftGroup group) {
    for (DraftOutput& output : group.outputs) {
      const std::string name = NeuronName(family(), output.id);
      if (name.empty())
        return UsageError("a tensor that Neuron's form has no place for")
            .Expected("decoder layers, embedding and output layer")
            .Found(output.name)
            .Advice("--unknown drop");
      output.name = name;
      output.unchanged = false;
      if (centres_ && output.id.role == Role::kRouterBias) MIMO_RETURN_IF_ERROR(Centre(&output));
      output.file_name = FileOfLayer(false, output.id.layer);
    }
    draft_.groups.push_back(std::move(group));
    return {};
  }

  // What rounds is known by the tally.
  Status Centre(DraftOutput* output) {
    if (output->transform != Transform::kMove || output->dtype != DType::kF32)
      return UsageError("router biases of this type cannot be centred")
          .Expected("F32, which a cast has not rounded yet")
          .Found(std::string(DTypeName(output->dtype)) + " " + output->name);
    output->adjust = Adjust::kCentre;
    tally_.rounded.push_back(draft_.sources[output->pieces[0].source].array);
    return {};
  }

  Status Stack(int32_t layer, bool gate_up, Part part, const std::vector<const DraftOutput*>& members) {
    const DraftOutput& first = *members[0];
    const int64_t rows = first.shape[0], cols = first.shape[1], count = gate_up ? 2 : 1;
    if (static_cast<int64_t>(members.size()) != experts_ * count)
      return UsageError("--include/--exclude keep a part of the experts of a layer")
          .Tensor(NeuronStackName(family(), gate_up, layer, part))
          .Expected("all of its experts, or none")
          .Found(std::to_string(members.size()) + " of " + std::to_string(experts_ * count) + " projections")
          .Advice("widen the pattern");
    const bool codes = first.dtype == DType::kF8E4M3;
    const bool values = part == Part::kWeight && !codes;
    if (values && first.dtype != DType::kBF16)
      return UsageError("Neuron has no form for these experts")
          .Expected("block FP8 or BF16")
          .Found(first.name)
          .Advice("--dtype bf16 writes a BF16 directory; or two runs: a recipe that makes them block FP8 first");
    OutputArray stack = OutputLike(first);
    stack.name = NeuronStackName(family(), gate_up, layer, part);
    stack.id.expert = -1;
    stack.id.part = part;
    stack.shape = {experts_, cols, count * rows};
    stack.transform = Transform::kTranspose;
    stack.target_codec = ValueCodecOf(first.dtype).value_or(Codec::kFp8Block);
    if (codes) stack.adjust = rescale_ ? Adjust::kNeuron : Adjust::kHalve;
    if (part == Part::kRowScale) {
      stack.adjust = Adjust::kScale;
      stack.factor = rescale_ ? static_cast<float>(448.0 / 240.0) : 2.0f;
    }
    for (const DraftOutput* member : members) {
      const DraftOutput& output = *member;
      if (output.shape != first.shape || output.dtype != first.dtype || output.pieces.size() != 1)
        return UsageError("experts of one layer are stored differently")
            .Expected(first.name)
            .Found(output.name)
            .Advice("store them alike first");
      Piece piece;
      piece.source = output.pieces[0].source;
      piece.rows = cols;
      piece.cols = rows;
      piece.target_row = output.id.expert * cols;
      piece.target_col = output.id.role == Role::kExpertUp ? rows : 0;
      stack.pieces.push_back(piece);
      // Values that were only moved so far are now turned over as values.
      if (!codes && output.transform == Transform::kMove) draft_.sources[piece.source].codec = stack.target_codec;
    }
    SortPieces(&stack.pieces);
    draft_.BeginGroup(stack.name);
    draft_.AddOutput(std::move(stack), first.near, FileOfLayer(false, layer));
    return {};
  }

  Draft& draft_;
  Tally& tally_;
  const bool rescale_, centres_;
  const int64_t experts_;
};

}  // namespace

Status NeuronForm::Arrange(Planning* p) const {
  return NeuronPlanner(p).StackExperts();
}

}  // namespace mimo
