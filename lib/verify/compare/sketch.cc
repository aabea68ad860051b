#include "lib/verify/compare/sketch.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace mimo {
namespace {

// Pseudo-random, the same everywhere.
bool SignOf(int64_t column) {
  uint64_t x = static_cast<uint64_t>(column) + 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return ((x ^ (x >> 31)) & 1) != 0;
}

int SegmentOf(int64_t column, int64_t columns) {
  return static_cast<int>(column * std::min<int64_t>(kSegments, columns) / columns);
}

void FinishSketch(RowSketch* sketch) {
  sketch->usable = false;
  for (int s = 0; s < kSegments; ++s) {
    const float sum = sketch->sums[static_cast<size_t>(s)];
    sketch->usable |= sum != 0 && std::isfinite(sum);
    if (sum < 0) sketch->signs |= uint64_t{1} << s;
  }
}

int SegmentsIn(int64_t cols) {
  return static_cast<int>(std::min<int64_t>(kSegments, cols));
}

int Apart(const RowSketch& a, const RowSketch& b) {
  return std::popcount(a.signs ^ b.signs);
}

// How many segments have the ratio that most have.
int Agreeing(const RowSketch& a, const RowSketch& b, int segments) {
  std::array<float, kSegments> ratios{};
  int count = 0;
  for (int s = 0; s < segments; ++s) {
    const float x = a.sums[static_cast<size_t>(s)], y = b.sums[static_cast<size_t>(s)];
    if (x != 0 && std::isfinite(y / x)) ratios[static_cast<size_t>(count++)] = y / x;
  }
  if (count == 0) return 0;
  std::nth_element(ratios.begin(), ratios.begin() + count / 2, ratios.begin() + count);
  const float ratio = ratios[static_cast<size_t>(count / 2)];
  if (!(ratio > 0)) return 0;
  return static_cast<int>(std::count_if(ratios.begin(), ratios.begin() + count,
                                        [ratio](float r) { return r > 0.7f * ratio && r < 1.4f * ratio; }));
}

}  // namespace

Status SketchRows(const LogicalCheckpoint& checkpoint, const LogicalTensor& tensor, bool turned,
                  std::vector<RowSketch>* sketches) {
  const int64_t rows = tensor.rows.rows(), cols = tensor.rows.cols();
  sketches->assign(static_cast<size_t>(turned ? cols : rows), {});
  std::vector<float> signs(static_cast<size_t>(std::max(rows, cols)));
  for (size_t i = 0; i < signs.size(); ++i) signs[i] = SignOf(static_cast<int64_t>(i)) ? -1.0f : 1.0f;
  MIMO_RETURN_IF_ERROR(VisitRows(checkpoint, tensor, [&](int64_t row, int64_t count, const float* values) {
    for (int64_t r = row; r < row + count; ++r)
      for (int64_t c = 0; c < cols; ++c) {
        const float value = *values++;
        const size_t of = static_cast<size_t>(turned ? c : r);
        const int64_t at = turned ? r : c;
        (*sketches)[of].sums[static_cast<size_t>(SegmentOf(at, turned ? rows : cols))] +=
            signs[static_cast<size_t>(at)] * value;
      }
  }));
  for (RowSketch& sketch : *sketches) FinishSketch(&sketch);
  return {};
}

Status SketchSomeRows(const LogicalCheckpoint& checkpoint, const LogicalTensor& tensor, int64_t first, int64_t count,
                      std::vector<RowSketch>* sketches) {
  sketches->assign(static_cast<size_t>(count), {});
  const int64_t cols = tensor.rows.cols();
  MIMO_RETURN_IF_ERROR(
      VisitSomeRows(checkpoint, tensor, first, count, [&](int64_t row, int64_t n, const float* values) {
        for (int64_t r = row - first; r < row - first + n; ++r)
          for (int64_t c = 0; c < cols; ++c)
            (*sketches)[static_cast<size_t>(r)].sums[static_cast<size_t>(SegmentOf(c, cols))] +=
                (SignOf(c) ? -1.0f : 1.0f) * *values++;
      }));
  for (RowSketch& sketch : *sketches) FinishSketch(&sketch);
  return {};
}

bool IsSameRow(const RowSketch& a, const RowSketch& b, int64_t cols) {
  const int segments = SegmentsIn(cols);
  // Of unrelated rows half of the signs agree; 64 of them within a quarter in one of 10^5.
  return a.usable && b.usable && Apart(a, b) * 4 <= segments && Agreeing(a, b, segments) * 2 >= segments;
}

int64_t FindRow(const RowSketch& row, const std::vector<RowSketch>& sketches, int64_t cols) {
  int64_t best = -1;
  int apart = kSegments + 1;
  for (size_t i = 0; i < sketches.size(); ++i) {
    const int here = Apart(row, sketches[i]);
    if (here >= apart || !IsSameRow(row, sketches[i], cols)) continue;
    apart = here;
    best = static_cast<int64_t>(i);
  }
  return best;
}

}  // namespace mimo
