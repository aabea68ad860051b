// How two vectors differ: norms, biases, sinks.
#pragma once

#include "lib/verify/compare/cells.h"

namespace mimo {

// Of tensors of one row: values.single, .offset, .scaled, .permuted, .constant, .damaged or .other.
Result<PlaceFinding> CompareVectors(const LogicalCheckpoint& a, const LogicalTensor& in_a, const LogicalCheckpoint& b,
                                    const LogicalTensor& in_b);

}  // namespace mimo
