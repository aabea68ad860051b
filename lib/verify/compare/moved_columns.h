// Columns of a tensor: in other places, under factors of their own, or standing where rows should.
#pragma once

#include "lib/verify/compare/cells.h"
#include "lib/verify/compare/units.h"

namespace mimo {

// A factor for every column, and not the same: columns.scaled; "" for none. kIo.
Result<PlaceFinding> FindColumnFactors(const LogicalCheckpoint& a, const LogicalCheckpoint& b, const TensorPair& pair);

// The kinds columns.shifted, columns.permuted, heads.columns-permuted, tensor.transposed; "" for none.
// `head_columns`: of a head in columns that belong to heads, else 0. kIo.
Result<PlaceFinding> FindColumns(const LogicalCheckpoint& a, const LogicalCheckpoint& b, const TensorPair& pair,
                                 int64_t head_columns);

}  // namespace mimo
