// What two config.json say of the model beyond its arrays: numbers that every forward pass uses.
#pragma once

#include <string>
#include <vector>

#include "lib/forms/checkpoint.h"
#include "lib/verify/compare/compare.h"

namespace mimo {

struct ConfigComparison {
  std::vector<CompareDifference> differences;
  std::vector<std::string> notes;
};

// Compares what the two say, of forms that do not hold the model's config the one that they keep of it; what says how
// arrays are stored (quantization, layout, type, KV heads of replicas) is left out: arrays were compared. Texts that
// are no numbers are notes, but for auto_map, without which a checkpoint does not load where it did.
ConfigComparison CompareConfigs(const Checkpoint& a, const Checkpoint& b);

}  // namespace mimo
