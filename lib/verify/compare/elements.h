// Values that were made from their counterparts one by one: rounded, cut off, negated, clipped, exchanged with their
// neighbour, read as codes of another format.
#pragma once

#include "lib/verify/compare/cells.h"
#include "lib/verify/compare/units.h"

namespace mimo {

// The kinds values.f32-bits-lost, .truncated, .negated, .clipped, codes.pairs-exchanged, codes.e5m2; "" for none. kIo.
Result<PlaceFinding> FindElementwise(const LogicalCheckpoint& a, const LogicalCheckpoint& b, const TensorPair& pair);

// Of one cell, or a vector: what each of `n` elements of `b` may have been made from those of `a` by. `multipliers` (of
// the codes that a is made of) may be null.
struct ElementVotes {
  uint64_t differing = 0, not_bf16 = 0;  // elements
  uint64_t rounded = 0, truncated = 0, negated = 0, exchanged = 0, clipped = 0, e5m2 = 0;
};
ElementVotes CountElements(const float* a, const float* b, int64_t n, float multiplier);

}  // namespace mimo
