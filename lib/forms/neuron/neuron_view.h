// A preprocessed Neuron directory shown as a Hugging Face checkpoint: split attention and dense weights with a scale
// per row, experts out of their stacks.
#pragma once

#include "lib/forms/view.h"

namespace mimo {

// kBadInput: an array is none of the form's, or does not have the shape that config.json says.
Result<View> ViewOfNeuron(const Catalogue& stored);

}  // namespace mimo
