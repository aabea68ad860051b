// Names of the preprocessed Neuron directory (reference target-layouts.md 7.1), both ways.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "lib/model/names.h"

namespace mimo {

// Of a tensor in its own array: "layers.3.self_attn.q_proj.weight", with kRowScale "....scale". "" for what the form
// does not hold (MTP, towers) or holds in stacks.
std::string NeuronName(const ModelTable& table, const TensorId& id);
std::optional<TensorId> IdOfNeuronName(const ModelTable& table, std::string_view name);

// Stacks of a layer's experts. `part` is kWeight or kRowScale.
std::string NeuronStackName(bool gate_up, int32_t layer, Part part);
struct NeuronStack {
  bool gate_up = false;
  int32_t layer = -1;
  Part part = Part::kWeight;
};
std::optional<NeuronStack> StackOfNeuronName(std::string_view name);

}  // namespace mimo
