#include "lib/planner/neuron.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "lib/form/neuron_names.h"
#include "lib/model/role_groups.h"

namespace mimo {
namespace {

class NeuronPlanner {
 public:
  NeuronPlanner(PlanBuilder& builder, ExpertCodes expert_codes)
      : builder_(builder),
        rescale_(expert_codes == ExpertCodes::kRescale),
        experts_(builder.catalogue().config.experts) {}

  Status StackExperts() {
    planned_ = builder_.TakeOutputs();
    std::map<std::tuple<int32_t, bool, Part>, std::vector<uint32_t>> stacks;
    for (FuseGroup& group : planned_.groups) {
      std::vector<uint32_t> kept;
      for (const uint32_t i : group.outputs) {
        const TensorId& id = planned_.outputs[i].id;
        if (!IsExpert(id.role)) {
          kept.push_back(i);
          continue;
        }
        const Part part = HoldsElements(id.part) ? Part::kWeight : Part::kRowScale;
        stacks[{id.layer, id.role != Role::kExpertDown, part}].push_back(i);
      }
      if (!kept.empty()) MIMO_RETURN_IF_ERROR(Rename(group, kept));
    }
    for (const auto& [key, members] : stacks)
      MIMO_RETURN_IF_ERROR(Stack(std::get<0>(key), std::get<1>(key), std::get<2>(key), members));
    return {};
  }

 private:
  Status Rename(const FuseGroup& group, const std::vector<uint32_t>& outputs) {
    builder_.BeginGroup(group.label);
    std::map<uint32_t, uint32_t> moved = {{kNone, kNone}};
    for (const uint32_t i : outputs) {
      OutputArray output = std::move(planned_.outputs[i]);
      const std::string name = NeuronName(*builder_.catalogue().table, output.id);
      if (name.empty())
        return UsageError("a tensor that Neuron's form has no place for")
            .Expected("decoder layers, embedding and output layer")
            .Found(output.name)
            .Advice("--unknown drop");
      output.name = name;
      output.unchanged = false;
      const std::string file = NeuronFile(output.id.layer);
      moved[i] = builder_.AddOutput(std::move(output), planned_.near[i], file);
    }
    for (EncodedWeight e : group.encoded) {
      for (uint32_t* output : {&e.codes, &e.scales, &e.global, &e.input}) *output = moved.at(*output);
      builder_.group().encoded.push_back(e);
    }
    return {};
  }

  Status Stack(int32_t layer, bool gate_up, Part part, const std::vector<uint32_t>& members) {
    const OutputArray& first = planned_.outputs[members[0]];
    const int64_t rows = first.shape[0], cols = first.shape[1], count = gate_up ? 2 : 1;
    const bool codes = first.dtype == DType::kF8E4M3;
    const bool values = part == Part::kWeight && !codes;
    if (values && first.dtype != DType::kBF16)
      return UsageError("Neuron has no form for these experts")
          .Expected("block FP8 or BF16")
          .Found(first.name)
          .Advice("--dtype bf16 writes a BF16 directory");
    OutputArray stack = OutputLike(first);
    stack.name = NeuronStackName(gate_up, layer, part);
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
    for (const uint32_t i : members) {
      const OutputArray& output = planned_.outputs[i];
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
      if (!codes) SetCodec(piece.source, output, stack.target_codec);
    }
    std::sort(stack.pieces.begin(), stack.pieces.end(), [](const Piece& a, const Piece& b) {
      return std::pair(a.target_row, a.target_col) < std::pair(b.target_row, b.target_col);
    });
    builder_.BeginGroup(stack.name);
    builder_.AddOutput(std::move(stack), planned_.near[members[0]], NeuronFile(layer));
    return {};
  }

  // Values that were only moved so far are now turned over as values.
  void SetCodec(uint32_t source, const OutputArray& output, Codec codec) {
    if (output.transform == Transform::kMove) builder_.plan().sources[source].codec = codec;
  }

  PlanBuilder& builder_;
  const bool rescale_;
  const int64_t experts_;
  PlannedOutputs planned_;
};

}  // namespace

Status ToNeuron(PlanBuilder& builder, ExpertCodes expert_codes) {
  return NeuronPlanner(builder, expert_codes).StackExperts();
}

}  // namespace mimo
