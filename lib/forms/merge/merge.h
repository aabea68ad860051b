// A checkpoint with the weights of another in the place of its own: what a training run gives back to the model it came
// from. The reference lends config, code, tokenizer, files, layout and codecs, and what the run does not have.
#pragma once

#include "lib/forms/checkpoint.h"

namespace mimo {

// Both are consumed. kBadInput: the reference is no Hugging Face directory, or its weights have other shapes.
Result<Checkpoint> MergeLike(Checkpoint run, Checkpoint reference);

}  // namespace mimo
