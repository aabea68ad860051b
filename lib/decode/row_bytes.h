// Arithmetic on rows of stored arrays.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/codec.h"

namespace mimo {

inline uint64_t Rows(int64_t rows, uint64_t row_bytes) {
  return static_cast<uint64_t>(rows) * row_bytes;
}

// Stored elements of a row: the last dimension.
inline int64_t RowElements(const std::vector<int64_t>& shape) {
  return shape.empty() ? 1 : shape.back();
}

// Bytes of so many values or codes of a row; of packed codes an even number.
inline uint64_t ColumnBytes(kernels::Codec codec, int64_t cols) {
  return static_cast<uint64_t>(cols) * kernels::ElementBits(codec) / 8;
}

// Values or codes of a row of so many bytes.
inline uint64_t ValueColumns(kernels::Codec codec, uint64_t row_bytes) {
  return row_bytes * 8 / kernels::ElementBits(codec);
}

}  // namespace mimo
