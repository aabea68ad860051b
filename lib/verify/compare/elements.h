// Values that were made from their counterparts one by one: rounded, cut off, negated, clipped, exchanged with their
// neighbour, read as codes of another format.
#pragma once

#include "lib/verify/compare/cells.h"
#include "lib/verify/compare/units.h"

namespace mimo {

// The kinds values.single, .f32-bits-lost, .truncated, .negated, .clipped, codes.pairs-exchanged, codes.e5m2; "" for
// none. What a side's type rounds away of codes does not count. kIo.
Result<PlaceFinding> FindElementwise(const LogicalCheckpoint& a, const LogicalCheckpoint& b, const TensorPair& pair);

// Of one cell, or a vector: what each of `n` elements of `b` that differ may have been made by from that of `a`.
// `multiplier`: of the codes that `a` is made of, or 0. `rounded_to`: BF16 or FP16, what both are rounded to before
// they differ; kFp32: nothing.
struct ElementVotes {
  uint64_t differing = 0, not_bf16 = 0;  // elements
  int64_t first = -1;                    // that differs
  uint64_t rounded = 0, truncated = 0, negated = 0, exchanged = 0, clipped = 0, e5m2 = 0;
};
ElementVotes CountElements(const float* a, const float* b, int64_t n, float multiplier, Codec rounded_to);

}  // namespace mimo
