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
// arrays are stored (quantization, layout, type, KV heads of replicas) is left out: arrays were compared. Texts are
// notes unless they choose what is computed or, as auto_map, whether the checkpoint loads: config.KEY. Of directories
// that are read as they are, an index that says of tensors where they are not is index.stale, unless both do.
ConfigComparison CompareConfigs(const Checkpoint& a, const Checkpoint& b);

}  // namespace mimo
