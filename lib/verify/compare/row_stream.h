// Rows of logical tensors in FP32, one strip after the other, in little memory: for a second look.
#pragma once

#include <cstdint>
#include <functional>

#include "lib/verify/logical/logical.h"

namespace mimo {

// Calls visit(row, rows, values) for all rows of a tensor in their order; values are rows x cols() floats, valid until
// the next call. kIo.
using RowVisit = std::function<void(int64_t row, int64_t rows, const float* values)>;
Status VisitRows(const LogicalCheckpoint& checkpoint, const LogicalTensor& tensor, const RowVisit& visit);

// The same of rows [first, first + count) alone.
Status VisitSomeRows(const LogicalCheckpoint& checkpoint, const LogicalTensor& tensor, int64_t first, int64_t count,
                     const RowVisit& visit);

// The same of two tensors of one shape, side by side.
using RowPairVisit = std::function<void(int64_t row, int64_t rows, const float* a, const float* b)>;
Status VisitRowPairs(const LogicalCheckpoint& a, const LogicalTensor& in_a, const LogicalCheckpoint& b,
                     const LogicalTensor& in_b, const RowPairVisit& visit);

// What each value of one row in `every` is a multiple of, in every `width`-th column: [rows / every][cols / width],
// both rounded up. 1 for plain values.
Status ReadMultipliers(const LogicalCheckpoint& checkpoint, const LogicalTensor& tensor, int64_t every, int64_t width,
                       std::vector<float>* multipliers);

}  // namespace mimo
