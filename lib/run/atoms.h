// The smallest uniform pieces of a fuse group: runs of source rows with the same destinations, and cells.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/run/steps.h"

namespace mimo {

// Atoms of the moved and converted outputs of a group that are not skipped, by place in the source files. They depend
// on the plan alone, so what is counted per atom does not depend on memory or threads.
std::vector<RowStrip> AtomsOf(const Job& job, uint32_t group);

// The cells to make, in plan order.
std::vector<uint32_t> CellsOf(const Job& job, uint32_t group);

}  // namespace mimo
