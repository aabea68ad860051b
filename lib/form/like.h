// A checkpoint with the weights of another in the place of its own: what a training run gives back to the model it came
// from. The reference lends config, code, tokenizer, files, layout and codecs, and what the run does not have.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/form/checkpoint.h"

namespace mimo {

// Arrays of the reference whose weights the run has are shown as "ref/NAME"; stored arrays of the run are "run/NAME".
inline constexpr char kReferencePrefix[] = "ref/";
inline constexpr char kRunPrefix[] = "run/";

// What the merged checkpoint (its view, its inventory) does not say.
struct Like {
  Inventory reference;            // every weight of the reference; arrays are those that the merged view shows
  QkvLayout layout;               // of the reference's attention
  uint32_t first_grafted = 0;     // weights from here on in the merged inventory are the reference's own
  std::vector<uint32_t> unknown;  // arrays of the reference that no table knows, as shown
};

// Both are consumed. kBadInput: the reference is no Hugging Face directory, or its weights have other shapes.
Result<Checkpoint> MergeLike(Checkpoint run, Checkpoint reference);

}  // namespace mimo
