// Names of the preprocessed Neuron directory (reference target-layouts.md 7.1), both ways.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "lib/model/family.h"

namespace mimo {

// Of a tensor in its own array: "layers.3.self_attn.q_proj.weight", with kRowScale "....scale". "" for what the form
// does not hold (MTP, towers) or holds in stacks, and for all of a family that Neuron has no form for.
std::string NeuronName(const Family& family, const TensorId& id);
std::optional<TensorId> IdOfNeuronName(const Family& family, std::string_view name);

// Stacks of a layer's experts. `part` is kWeight or kRowScale.
std::string NeuronStackName(const Family& family, bool gate_up, int32_t layer, Part part);
struct NeuronStack {
  bool gate_up = false;
  int32_t layer = -1;
  Part part = Part::kWeight;
};
std::optional<NeuronStack> StackOfNeuronName(const Family& family, std::string_view name);

}  // namespace mimo
