// What became of the blocks of a tensor, of a fuse group or of a whole run.
#pragma once

#include <algorithm>
#include <cstdint>

namespace mimo {

struct BlockCounts {
  // Of a new grid of block FP8 (Transform::kRelayout).
  uint64_t moved_blocks = 0;        // copied with their scale
  uint64_t equal_scale_blocks = 0;  // straddling, but under source scales that are bit-equal: exact too
  uint64_t requantized_blocks = 0;
  // Made from values, in a new grid or a weight that is encoded: under the scale that was there (CellRow::keep,
  // EncodedWeight::keep), and under one made anew.
  uint64_t kept_blocks = 0;
  uint64_t fresh_blocks = 0;
  // Of a new grid: over re-quantized, kept and fresh blocks.
  double squared_error = 0;
  double squared_sum = 0;
  double max_error = 0;
  // Of weights that are made in a block codec: all their blocks, and those moved without arithmetic on their elements.
  uint64_t encoded_blocks = 0;
  uint64_t exact_blocks = 0;
  uint64_t inexact_codes =
      0;  // codes that lost a bit where they were adjusted (OutputArray::adjust), values without kept bits

  // Sums of doubles depend on the order: that of plans, never that of threads.
  BlockCounts& operator+=(const BlockCounts& other);
};

// Calls visit(name, member) with the name in JSON and the pointer to member of each count of a new grid, in the order
// of the documents.
template <class Visit>
void VisitGridCounts(Visit visit) {
  visit("moved_blocks", &BlockCounts::moved_blocks);
  visit("equal_scale_blocks", &BlockCounts::equal_scale_blocks);
  visit("requantized_blocks", &BlockCounts::requantized_blocks);
  visit("kept_blocks", &BlockCounts::kept_blocks);
  visit("fresh_blocks", &BlockCounts::fresh_blocks);
  visit("squared_error", &BlockCounts::squared_error);
  visit("squared_sum", &BlockCounts::squared_sum);
  visit("max_error", &BlockCounts::max_error);
}

// All counts: those of a new grid, then the others.
template <class Visit>
void VisitCounts(Visit visit) {
  VisitGridCounts(visit);
  visit("encoded_blocks", &BlockCounts::encoded_blocks);
  visit("exact_blocks", &BlockCounts::exact_blocks);
  visit("inexact_codes", &BlockCounts::inexact_codes);
}

inline BlockCounts& BlockCounts::operator+=(const BlockCounts& other) {
  const double largest = std::max(max_error, other.max_error);
  VisitCounts([&](const char*, auto member) { this->*member += other.*member; });
  max_error = largest;
  return *this;
}

}  // namespace mimo
