// What is done to make each output, in the words of docs/glossary.md ("operation").
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/plan/plan.h"

namespace mimo {

struct Operations {
  bool moved = false;       // bytes as they are
  bool converted = false;   // decoded, to values
  bool encoded = false;     // made in a block codec
  bool adjusted = false;    // elements are halved, doubled or scaled
  bool fused = false;       // from several stored arrays
  bool split = false;       // from a part of one
  bool replicated = false;  // some of what it reads is in another place of the output too
  bool padded = false;
  bool transposed = false;
  bool constant = false;            // of the form, not of the model
  uint64_t requantized_blocks = 0;  // at most: equal scales are found when the data is seen
  bool operator==(const Operations&) const = default;
};

// By plan output. Scales and other arrays beside a weight count for themselves.
std::vector<Operations> OperationsOf(const Catalogue& catalogue, const Plan& plan);

// "moved, split, replicated"
std::string OperationsText(const Operations& operations);

}  // namespace mimo
