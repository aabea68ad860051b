#include "lib/io/dtype.h"

#include <array>

#include "lib/base/checked.h"
#include "lib/base/words.h"

namespace mimo {
namespace {

struct Row {
  DType dtype;
  std::string_view name;
  uint32_t bits;
};

// In the order of the enumeration, so that a DType is its index.
constexpr std::array<Row, 22> kRows = {{
    {DType::kBool, "BOOL", 8},
    {DType::kF4, "F4", 4},
    {DType::kF6E2M3, "F6_E2M3", 6},
    {DType::kF6E3M2, "F6_E3M2", 6},
    {DType::kU8, "U8", 8},
    {DType::kI8, "I8", 8},
    {DType::kF8E5M2, "F8_E5M2", 8},
    {DType::kF8E4M3, "F8_E4M3", 8},
    {DType::kF8E8M0, "F8_E8M0", 8},
    {DType::kF8E4M3Fnuz, "F8_E4M3FNUZ", 8},
    {DType::kF8E5M2Fnuz, "F8_E5M2FNUZ", 8},
    {DType::kI16, "I16", 16},
    {DType::kU16, "U16", 16},
    {DType::kF16, "F16", 16},
    {DType::kBF16, "BF16", 16},
    {DType::kI32, "I32", 32},
    {DType::kU32, "U32", 32},
    {DType::kF32, "F32", 32},
    {DType::kC64, "C64", 64},
    {DType::kF64, "F64", 64},
    {DType::kI64, "I64", 64},
    {DType::kU64, "U64", 64},
}};

constexpr bool InOrder() {
  for (size_t i = 0; i < kRows.size(); ++i) {
    if (kRows[i].dtype != static_cast<DType>(i)) return false;
  }
  return kRows.size() == Enumerators<DType>();
}
static_assert(InOrder());

}  // namespace

uint32_t BitsPerElement(DType dtype) {
  return kRows[static_cast<size_t>(dtype)].bits;
}

std::string_view DTypeName(DType dtype) {
  return kRows[static_cast<size_t>(dtype)].name;
}

std::optional<DType> DTypeFromName(std::string_view name) {
  for (const Row& row : kRows) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

std::optional<uint64_t> TensorBytes(DType dtype, std::span<const int64_t> shape) {
  // A zero anywhere makes the tensor empty, but the other sizes must still make sense: code that multiplies only some
  // of them (rows, strides) may rely on every partial product fitting.
  uint64_t elements = 1;
  bool empty = false;
  for (const int64_t size : shape) {
    if (size < 0) return std::nullopt;
    empty |= size == 0;
    if (size != 0 && __builtin_mul_overflow(elements, static_cast<uint64_t>(size), &elements)) return std::nullopt;
  }
  const auto bits = CheckedMul(elements, BitsPerElement(dtype));
  if (!bits) return std::nullopt;
  if (empty) return 0;
  return *bits % 8 == 0 ? std::optional(*bits / 8) : std::nullopt;
}

}  // namespace mimo
