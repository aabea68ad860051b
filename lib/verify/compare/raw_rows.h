// Whether rows of two checkpoints are the same as they are stored: bytes and scales, nothing decoded.
#pragma once

#include <vector>

#include "lib/verify/logical/value_rows.h"

namespace mimo {

// Rows that are in memory, and the pieces they are made of.
struct RowsInMemory {
  const ValueRows& rows;
  const StepBuffer& buffer;
  const std::vector<Piece>& pieces;  // of these rows or of more
};

// Whether rows [row, row + rows) of `a` and `b`, of equal columns, are stored in one codec with equal codes under
// scales of equal values, wherever either lies. False also where that cannot be told without decoding.
bool SameAsStored(const RowsInMemory& a, const RowsInMemory& b, int64_t row, int64_t rows);

}  // namespace mimo
