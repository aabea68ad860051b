// Arithmetic on rows of stored arrays.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/convert.h"

namespace mimo {

inline uint64_t Rows(int64_t rows, uint64_t row_bytes) {
  return static_cast<uint64_t>(rows) * row_bytes;
}

// Stored elements of a row: the last dimension.
inline int64_t RowElements(const std::vector<int64_t>& shape) {
  return shape.empty() ? 1 : shape.back();
}

// Where rows that are put together in a buffer may begin.
inline uint64_t Aligned(uint64_t offset) {
  return (offset + 63) / 64 * 64;
}

// Bytes of so many plain values.
inline uint64_t ValueBytes(kernels::Codec codec, int64_t values) {
  return static_cast<uint64_t>(values) * (ElementBits(codec) / 8);
}

// Element columns of a row of values or codes.
inline uint64_t ValueColumns(kernels::Codec codec, uint64_t row_bytes) {
  switch (codec) {
    case kernels::Codec::kFp32:
      return row_bytes / 4;
    case kernels::Codec::kFp16:
    case kernels::Codec::kBf16:
      return row_bytes / 2;
    case kernels::Codec::kFp8Block:
    case kernels::Codec::kMxfp8:
      return row_bytes;
    case kernels::Codec::kMxfp4:
    case kernels::Codec::kNvfp4:
      return row_bytes * 2;
  }
  return 0;
}

}  // namespace mimo
