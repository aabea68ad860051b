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

void CutPieces(const OutputArray& output, const Placed& placed, std::vector<Piece>* pieces);

// Ascending by (target_row, target_col).
void SortPieces(std::vector<Piece>* pieces);

// Sorts, and joins neighbours that are one piece: rows that follow each other in source and target.
void JoinPieces(std::vector<Piece>* pieces);

// Padding behind the last of sorted pieces, up to `rows` rows.
void PadRows(int64_t rows, std::vector<Piece>* pieces);

}  // namespace mimo
