// From a planned split Hugging Face form to the preprocessed Neuron directory (reference target-layouts.md 7.1).
#pragma once

#include <string>
#include <vector>

#include "lib/draft/draft.h"

namespace mimo {

// Replaces the outputs of the draft, which hold attention and dense weights as they are to be stored: experts
// are transposed and stacked, block FP8 codes halved and their scales doubled (kHalve), or divided by 448/240 and
// multiplied by it (kRescale). kUsage for experts in another codec.
Status StackExperts(Draft& draft, ExpertCodes expert_codes);

}  // namespace mimo
