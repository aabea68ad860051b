// A rectangle of a planned output becomes a part of another: its pieces, cut to it and moved.
#pragma once

#include <vector>

#include "lib/layout/partition.h"
#include "lib/plan/plan.h"

namespace mimo {

// A rectangle of a planned output and where it goes.
struct Placed {
  Range rows, cols;
  int64_t target_row = 0;
  int64_t target_col = 0;
};

// Elements of the last dimension.
inline int64_t LastDimension(const std::vector<int64_t>& shape) {
  return shape.empty() ? 1 : shape.back();
}

void CutPieces(const OutputArray& output, const Placed& placed, std::vector<Piece>* pieces);

// Joins neighbours that are one piece: rows that follow each other in source and target.
void JoinPieces(std::vector<Piece>* pieces);

}  // namespace mimo
