#include "lib/forms/neuron/neuron_names.h"

#include <charconv>

#include "lib/model/role_groups.h"

namespace mimo {
namespace {

constexpr std::string_view kModel = "model.";
constexpr std::string_view kLayers = "layers.";
bool InArrayOfItsOwn(const TensorId& id) {
  return !id.mtp && id.expert < 0 && id.role != Role::kUnknown && !IsTower(id.role) && id.role != Role::kAttnQkv &&
         !IsCacheScale(id.role);
}

}  // namespace

std::string NeuronName(const Family& family, const TensorId& id) {
  if (!family.neuron || !InArrayOfItsOwn(id)) return "";
  std::string name = family.table.NameOf(id);
  if (name.starts_with(kModel)) name.erase(0, kModel.size());
  for (const auto& [ours, theirs] : family.neuron->renamed)
    if (name.ends_with(ours)) name.replace(name.size() - ours.size(), ours.size(), theirs);
  return name;
}

std::optional<TensorId> IdOfNeuronName(const Family& family, std::string_view name) {
  if (!family.neuron) return std::nullopt;
  std::string ours(name);
  Part part = Part::kWeight;
  if (ours.ends_with(".scale")) {
    part = Part::kRowScale;
    ours = NameOfPart(ours, Part::kWeight);
  }
  for (const auto& [hf, theirs] : family.neuron->renamed)
    if (ours.ends_with(theirs)) ours.replace(ours.size() - theirs.size(), theirs.size(), hf);
  for (const std::string& candidate : {std::string(kModel) + ours, ours}) {
    TensorId id = family.table.Identify(candidate);
    if (id.part != Part::kWeight || !InArrayOfItsOwn(id)) continue;
    id.part = part;
    return id;
  }
  return std::nullopt;
}

std::string NeuronStackName(const Family& family, bool gate_up, int32_t layer, Part part) {
  if (!family.neuron) return "";
  return std::string(kLayers) + std::to_string(layer) + "." + family.neuron->stacks +
         (gate_up ? ".gate_up_proj." : ".down_proj.") + std::string(PartSuffix(part));
}

std::optional<NeuronStack> StackOfNeuronName(const Family& family, std::string_view name) {
  NeuronStack stack;
  if (!family.neuron || !name.starts_with(kLayers)) return std::nullopt;
  const char* begin = name.data() + kLayers.size();
  const auto [end, problem] = std::from_chars(begin, name.data() + name.size(), stack.layer);
  if (problem != std::errc() || stack.layer < 0) return std::nullopt;
  for (const bool gate_up : {true, false})
    for (const Part part : {Part::kWeight, Part::kRowScale})
      if (name == NeuronStackName(family, gate_up, stack.layer, part)) return NeuronStack{gate_up, stack.layer, part};
  return std::nullopt;
}

}  // namespace mimo
