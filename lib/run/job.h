// What is to be made of a plan in one run.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "lib/decode/row_bytes.h"
#include "lib/plan/plan.h"

namespace mimo {

enum class OutputMode : uint8_t {
  kWrite,
  kHashOnly,  // lies in a linked file
  kMake,      // made for whoever reads it, and neither hashed nor written to a file
  kSkip,      // lies in a linked file that is not read, or is complete already
};

// What the steps are cut from. References outlive every step.
struct Job {
  const Catalogue& catalogue;
  const Plan& plan;
  std::vector<OutputMode> modes;  // one per plan output

  const StoredArray& array(uint32_t source) const { return catalogue.arrays[plan.sources[source].array]; }
  // The file that holds a row of a source, and where in it: the order in which things are read.
  std::pair<uint32_t, uint64_t> PlaceOf(uint32_t source, int64_t row) const {
    return {array(source).file, array(source).begin + Rows(row, array(source).row_bytes())};
  }
};

}  // namespace mimo
