#include "lib/verify/compare/sketch.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace mimo {
namespace {

constexpr int64_t kSumsAtOnce = 1 << 23;  // FP32 sums in memory at a time

// Pseudo-random, the same everywhere.
bool IsNegated(int64_t column) {
  uint64_t x = static_cast<uint64_t>(column) + 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return ((x ^ (x >> 31)) & 1) != 0;
}

// Segments that differ, of those that either tells; one that one side alone tells differs.
int Apart(const RowSketch& a, const RowSketch& b, int* told) {
  int apart = 0;
  *told = 0;
  for (size_t w = 0; w < a.signs.size(); ++w) {
    const uint64_t both = a.told[w] & b.told[w], either = a.told[w] | b.told[w];
    apart += std::popcount(((a.signs[w] ^ b.signs[w]) & both) | (either & ~both));
    *told += std::popcount(either);
  }
  return apart;
}

// How many of `told` segments may differ. Of unrelated rows half do, give or take the root of a quarter of them: what
// is allowed is more than five such steps away from it.
int Allowed(int told) {
  return static_cast<int>(std::min(told / 4.0, told / 2.0 - 2.75 * std::sqrt(static_cast<double>(told))));
}

}  // namespace

int SegmentsOf(int64_t cols) {
  return static_cast<int>(std::clamp<int64_t>(cols, 1, kSegments));
}

SketchMaker::SketchMaker(int64_t rows, int64_t cols) : segments_(SegmentsOf(cols)) {
  sums_.assign(static_cast<size_t>(rows * segments_), 0);
  segment_.resize(static_cast<size_t>(cols));
  sign_.resize(static_cast<size_t>(cols));
  for (int64_t c = 0; c < cols; ++c) {
    segment_[static_cast<size_t>(c)] = static_cast<int32_t>(c * segments_ / cols);
    sign_[static_cast<size_t>(c)] = IsNegated(c) ? -1.0f : 1.0f;
  }
}

std::vector<RowSketch> SketchMaker::Sketches() const {
  const auto segments = static_cast<size_t>(segments_);
  std::vector<RowSketch> sketches(sums_.size() / segments);
  for (size_t r = 0; r < sketches.size(); ++r)
    for (size_t s = 0; s < segments; ++s) {
      const float sum = sums_[r * segments + s];
      if (sum < 0) sketches[r].signs[s / 64] |= uint64_t{1} << (s % 64);
      if (sum != 0 && !std::isnan(sum)) sketches[r].told[s / 64] |= uint64_t{1} << (s % 64);
    }
  return sketches;
}

Status SketchRows(const LogicalCheckpoint& checkpoint, const LogicalTensor& tensor, bool turned,
                  std::vector<RowSketch>* sketches) {
  const int64_t rows = tensor.rows.rows(), cols = tensor.rows.cols();
  if (!turned) return SketchSomeRows(checkpoint, tensor, 0, rows, sketches);
  SketchMaker maker(cols, rows);
  MIMO_RETURN_IF_ERROR(VisitRows(checkpoint, tensor, [&](int64_t row, int64_t count, const float* values) {
    for (int64_t r = row; r < row + count; ++r)
      for (int64_t c = 0; c < cols; ++c) maker.Add(c, r, *values++);
  }));
  *sketches = maker.Sketches();
  return {};
}

Status SketchSomeRows(const LogicalCheckpoint& checkpoint, const LogicalTensor& tensor, int64_t first, int64_t count,
                      std::vector<RowSketch>* sketches) {
  const int64_t cols = tensor.rows.cols();
  const int64_t most = std::max<int64_t>(1, kSumsAtOnce / SegmentsOf(cols));
  sketches->clear();
  sketches->reserve(static_cast<size_t>(count));
  for (int64_t begin = first; begin < first + count; begin += most) {
    const int64_t step = std::min(most, first + count - begin);
    SketchMaker maker(step, cols);
    MIMO_RETURN_IF_ERROR(
        VisitSomeRows(checkpoint, tensor, begin, step, [&](int64_t row, int64_t n, const float* values) {
          for (int64_t r = row - begin; r < row - begin + n; ++r)
            for (int64_t c = 0; c < cols; ++c) maker.Add(r, c, *values++);
        }));
    const std::vector<RowSketch> made = maker.Sketches();
    sketches->insert(sketches->end(), made.begin(), made.end());
  }
  return {};
}

bool IsSameRow(const RowSketch& a, const RowSketch& b, int64_t cols) {
  int told = 0;
  const int apart = Apart(a, b, &told);
  // Rows of few values that are not 0 have too little to be known by.
  return told * 4 >= SegmentsOf(cols) && apart <= Allowed(told);
}

int64_t FindRow(const RowSketch& row, const std::vector<RowSketch>& sketches, int64_t cols) {
  int64_t best = -1;
  int least = kSegments + 1;
  for (size_t i = 0; i < sketches.size(); ++i) {
    int told = 0;
    const int apart = Apart(row, sketches[i], &told);
    if (apart >= least || !IsSameRow(row, sketches[i], cols)) continue;
    least = apart;
    best = static_cast<int64_t>(i);
  }
  return best;
}

}  // namespace mimo
