// Element types of the safetensors format.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace mimo {

enum class DType : uint8_t {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};

uint32_t BitsPerElement(DType dtype);
std::string_view DTypeName(DType dtype);  // as in a safetensors header: "F8_E4M3"
std::optional<DType> DTypeFromName(std::string_view name);

// Bytes of a tensor, or nullopt when the product overflows or is not a whole number of bytes.
std::optional<uint64_t> TensorBytes(DType dtype, std::span<const int64_t> shape);

// Every array is a matrix to us: a row is one run of the last dimension. Rank 0 and 1 are one row.
inline int64_t MatrixRows(const std::vector<int64_t>& shape) {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

}  // namespace mimo
