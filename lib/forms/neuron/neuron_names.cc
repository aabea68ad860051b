#include "lib/forms/neuron/neuron_names.h"

#include <charconv>

#include "lib/model/role_groups.h"

namespace mimo {
namespace {

constexpr std::string_view kModel = "model.";
constexpr std::string_view kLayers = "layers.";
constexpr std::string_view kStack = ".mlp.expert_mlps.mlp_op.";

// Names that change beyond the prefix: Hugging Face, Neuron.
constexpr std::pair<std::string_view, std::string_view> kRenamed[] = {
    {".mlp.gate.weight", ".mlp.router.linear_router.weight"},
    {".mlp.gate.e_score_correction_bias", ".mlp.router.e_score_correction_bias"},
};

bool InArrayOfItsOwn(const TensorId& id) {
  return !id.mtp && id.expert < 0 && id.role != Role::kUnknown && id.role != Role::kVision && id.role != Role::kAudio &&
         id.role != Role::kSpeech && id.role != Role::kAttnQkv && !IsCacheScale(id.role);
}

}  // namespace

std::string NeuronName(const ModelTable& table, const TensorId& id) {
  if (!InArrayOfItsOwn(id)) return "";
  std::string name = table.NameOf(id);
  if (name.starts_with(kModel)) name.erase(0, kModel.size());
  for (const auto& [ours, theirs] : kRenamed)
    if (name.ends_with(ours)) name.replace(name.size() - ours.size(), ours.size(), theirs);
  return name;
}

std::optional<TensorId> IdOfNeuronName(const ModelTable& table, std::string_view name) {
  std::string ours(name);
  for (const auto& [hf, theirs] : kRenamed)
    if (ours.ends_with(theirs)) ours.replace(ours.size() - theirs.size(), theirs.size(), hf);
  Part part = Part::kWeight;
  if (ours.ends_with(".scale")) {
    part = Part::kRowScale;
    ours = NameOfPart(ours, Part::kWeight);
  }
  for (const std::string& candidate : {std::string(kModel) + ours, ours}) {
    TensorId id = table.Identify(candidate);
    if (id.part != Part::kWeight || !InArrayOfItsOwn(id)) continue;
    id.part = part;
    return id;
  }
  return std::nullopt;
}

std::string NeuronStackName(bool gate_up, int32_t layer, Part part) {
  return std::string(kLayers) + std::to_string(layer) + std::string(kStack) +
         (gate_up ? "gate_up_proj." : "down_proj.") + std::string(PartSuffix(part));
}

std::optional<NeuronStack> StackOfNeuronName(std::string_view name) {
  NeuronStack stack;
  if (!name.starts_with(kLayers)) return std::nullopt;
  const char* begin = name.data() + kLayers.size();
  const auto [end, problem] = std::from_chars(begin, name.data() + name.size(), stack.layer);
  if (problem != std::errc() || stack.layer < 0) return std::nullopt;
  for (const bool gate_up : {true, false})
    for (const Part part : {Part::kWeight, Part::kRowScale})
      if (name == NeuronStackName(gate_up, stack.layer, part)) return NeuronStack{gate_up, stack.layer, part};
  return std::nullopt;
}

}  // namespace mimo
