// Rows that are recognised wherever they lie: the signs of signed sums over segments of columns. They tell rows apart
// whatever blocks of them were multiplied with, and with a part of the segments damaged.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "lib/verify/compare/row_stream.h"

namespace mimo {

inline constexpr int kSegments = 256;

struct RowSketch {
  std::array<uint64_t, kSegments / 64> signs{};  // bit s: the sum of segment s is less than 0
  std::array<uint64_t, kSegments / 64> told{};   // bit s: it is a number, and not 0
  bool empty() const { return told == decltype(told){}; }
};

// How many segments a row of `cols` values has: at most one for every column.
int SegmentsOf(int64_t cols);

// Adds value after value to the sums of many rows, and makes sketches of them.
class SketchMaker {
 public:
  // Of `rows` rows with `cols` values each.
  SketchMaker(int64_t rows, int64_t cols);
  void Add(int64_t row, int64_t col, float value) {
    sums_[static_cast<size_t>(row * segments_ + segment_[static_cast<size_t>(col)])] +=
        sign_[static_cast<size_t>(col)] * value;
  }
  std::vector<RowSketch> Sketches() const;

 private:
  int64_t segments_ = 1;
  std::vector<float> sums_;       // [rows][segments]
  std::vector<int32_t> segment_;  // of every column
  std::vector<float> sign_;
};

// Of every row of a tensor, in order; `turned`: of its columns. Sketches of rows of equally many values can be held
// against each other. kIo.
Status SketchRows(const LogicalCheckpoint& checkpoint, const LogicalTensor& tensor, bool turned,
                  std::vector<RowSketch>* sketches);

// Of rows [first, first + count) alone. kIo.
Status SketchSomeRows(const LogicalCheckpoint& checkpoint, const LogicalTensor& tensor, int64_t first, int64_t count,
                      std::vector<RowSketch>* sketches);

// Whether two rows of `cols` values are the same but for positive factors of their blocks, noise and a few segments.
bool IsSameRow(const RowSketch& a, const RowSketch& b, int64_t cols);

// The row of `sketches` that `row` is: of those that are the same the most alike, and of those the first; -1 where none
// is.
int64_t FindRow(const RowSketch& row, const std::vector<RowSketch>& sketches, int64_t cols);

}  // namespace mimo
