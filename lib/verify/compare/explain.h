// How tensors differ: a second look at those that do, by rows that are recognised wherever they lie.
#pragma once

#include <vector>

#include "lib/verify/compare/compare.h"
#include "lib/verify/compare/units.h"

namespace mimo {

// Adds a difference for every tensor of `report` that is not accepted, `pairs` by its side, and for copies of KV heads
// within one array that are none. Looks at most
// options.explained of them again, on options.threads workers; the others are said not to be looked at. The order of
// what is added is that of `report`, whatever the threads. kIo.
Status Explain(const LogicalCheckpoint& a, const LogicalCheckpoint& b, const std::vector<TensorPair>& pairs,
               const CompareOptions& options, CompareReport* report);

}  // namespace mimo
