// How two vectors differ: norms, biases, sinks.
#pragma once

#include <vector>

#include "lib/verify/compare/cells.h"

namespace mimo {

// Of tensors of one row. kIo.
Status ReadVectors(const LogicalCheckpoint& a, const LogicalTensor& in_a, const LogicalCheckpoint& b,
                   const LogicalTensor& in_b, std::vector<float>* x, std::vector<float>* y);

// How `y` was made from `x`, of one length, element by element: values.single, .non-finite, .f32-bits-lost, .truncated,
// .constant, .negated, .scaled, .offset; "" for none.
PlaceFinding FindVectorRule(const std::vector<float>& x, const std::vector<float>& y);
// Where the elements of `y` come from in `x`, or how many are not its: values.permuted, .noise, .damaged, .other.
PlaceFinding FindVectorOrder(const std::vector<float>& x, const std::vector<float>& y);

}  // namespace mimo
