// Rows that are recognised wherever they lie: signed sums over segments of columns. The signs of the sums tell rows
// apart whatever they were multiplied with, and with a few segments damaged.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "lib/verify/compare/row_stream.h"

namespace mimo {

inline constexpr int kSegments = 64;

struct RowSketch {
  std::array<float, kSegments> sums{};
  uint64_t signs = 0;   // bit s: sums[s] < 0
  bool usable = false;  // not all zero
};

// Of every row of a tensor, in order. Tensors of equally many columns have sketches that can be held against each
// other. `turned`: of its columns.
Status SketchRows(const LogicalCheckpoint& checkpoint, const LogicalTensor& tensor, bool turned,
                  std::vector<RowSketch>* sketches);

// Of rows [first, first + count) alone.
Status SketchSomeRows(const LogicalCheckpoint& checkpoint, const LogicalTensor& tensor, int64_t first, int64_t count,
                      std::vector<RowSketch>* sketches);

// Whether two rows are the same but for a positive factor, noise and a few segments. Rows of fewer columns than
// segments are compared by those that they have.
bool IsSameRow(const RowSketch& a, const RowSketch& b, int64_t cols);

// The row of `sketches` that `row` is, of those that are the same the most alike; -1 where none is.
int64_t FindRow(const RowSketch& row, const std::vector<RowSketch>& sketches, int64_t cols);

}  // namespace mimo
