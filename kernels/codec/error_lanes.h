// The order in which ErrorSums are summed, the same everywhere. A row is cut into segments of kStatSegment columns. In
// a segment, column c belongs to lane c % 8 and a lane takes its columns in ascending order, from zero; the lanes are
// folded 0+4, 1+5, 2+6, 3+7, then 0+2, 1+3, then 0+1. Segments are added to the total one after the other, row by row,
// from zero at the first of kStatRows rows. Maxima and counts need no order. No fused multiply-add.
#pragma once

#include "kernels/codec/float_bits.h"
#include "kernels/encode.h"

namespace mimo::kernels {

inline constexpr uint64_t kStatSegment = 512;
inline constexpr int kStatLanes = 8;

// One lane of one segment. NaN and infinite x are left out by the caller.
struct ErrorLane {
  double error = 0, source = 0, target = 0, product = 0;
  MIMO_HD void Add(float x, float y) {
    const double source_value = x;
    const double target_value = y;
    const double difference = target_value - source_value;
    error = error + difference * difference;
    source = source + source_value * source_value;
    target = target + target_value * target_value;
    product = product + source_value * target_value;
  }
  MIMO_HD void Add(const ErrorLane& other) {
    error = error + other.error;
    source = source + other.source;
    target = target + other.target;
    product = product + other.product;
  }
};

// Folds the 8 lanes of a segment into lanes[0].
MIMO_HD inline void FoldLanes(ErrorLane* lanes) {
  for (int half = kStatLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i].Add(lanes[i + half]);
  }
}

}  // namespace mimo::kernels
