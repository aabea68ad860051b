// What is to be made of a plan in one run.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/plan/plan.h"

namespace mimo {

enum class OutputMode : uint8_t {
  kWrite,
  kHashOnly,  // lies in a linked file
  kSkip,      // lies in a linked file that is not read, or is complete already
};

// What the steps are cut from. References outlive every step.
struct Job {
  const Catalogue& catalogue;
  const Plan& plan;
  std::vector<OutputMode> modes;  // one per plan output

  const StoredArray& array(uint32_t source) const { return catalogue.arrays[plan.sources[source].array]; }
};

}  // namespace mimo
