// The smallest uniform parts of a fuse group: bundles of parallel rows, and cells.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/run/steps.h"

namespace mimo {

// The moved, converted, inverted and constant outputs of a group that are not skipped, in bundles by place in the
// source files; those without a source come last. Row edges are carried through the pieces until nothing changes, so
// that no piece begins or ends inside a bundle, and rows that pieces join are in one: every source row is in one bundle
// at most, every output row in exactly one. They depend on the plan alone, so what is counted per bundle does not
// depend on memory or threads.
std::vector<RowStrip> BundlesOf(const Job& job, uint32_t group);

// The cells to make, in plan order.
std::vector<uint32_t> CellsOf(const Job& job, uint32_t group);

}  // namespace mimo
