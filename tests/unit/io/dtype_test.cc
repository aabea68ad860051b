#include "lib/io/dtype.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace mimo::dtype_test {
namespace {

TEST(DType, NamesAndBits) {
  const struct {
    DType dtype;
    const char* name;
    uint32_t bits;
  } kCases[] = {
      {DType::kBool, "BOOL", 8},      {DType::kF4, "F4", 4},
      {DType::kF6E2M3, "F6_E2M3", 6}, {DType::kF6E3M2, "F6_E3M2", 6},
      {DType::kU8, "U8", 8},          {DType::kI8, "I8", 8},
      {DType::kF8E5M2, "F8_E5M2", 8}, {DType::kF8E4M3, "F8_E4M3", 8},
      {DType::kF8E8M0, "F8_E8M0", 8}, {DType::kF8E4M3Fnuz, "F8_E4M3FNUZ", 8},
      {DType::kI16, "I16", 16},       {DType::kF8E5M2Fnuz, "F8_E5M2FNUZ", 8},
      {DType::kU16, "U16", 16},       {DType::kF16, "F16", 16},
      {DType::kBF16, "BF16", 16},     {DType::kI32, "I32", 32},
      {DType::kU32, "U32", 32},       {DType::kF32, "F32", 32},
      {DType::kC64, "C64", 64},       {DType::kF64, "F64", 64},
      {DType::kI64, "I64", 64},       {DType::kU64, "U64", 64},
  };
  std::set<std::string> names;
  for (const auto& c : kCases) {
    EXPECT_EQ(DTypeName(c.dtype), c.name);
    EXPECT_EQ(BitsPerElement(c.dtype), c.bits) << c.name;
    EXPECT_EQ(DTypeFromName(c.name), c.dtype);
    names.insert(c.name);
  }
  EXPECT_EQ(names.size(), static_cast<size_t>(DType::kU64) + 1) << "every type is in the table above";
}

TEST(DType, UnknownNames) {
  for (const char* name : {"", "f32", "F3", "F32 ", "F8_E4M3FN", "BFLOAT16"}) {
    EXPECT_EQ(DTypeFromName(name), std::nullopt) << name;
  }
}

TEST(TensorBytes, Products) {
  const auto bytes = [](DType dtype, std::vector<int64_t> shape) { return TensorBytes(dtype, shape); };
  EXPECT_EQ(bytes(DType::kF32, {}), 4u);
  EXPECT_EQ(bytes(DType::kF32, {2, 3}), 24u);
  EXPECT_EQ(bytes(DType::kF4, {2, 3}), 3u);
  EXPECT_EQ(bytes(DType::kF4, {}), std::nullopt);
  EXPECT_EQ(bytes(DType::kF4, {3}), std::nullopt);
  EXPECT_EQ(bytes(DType::kF4, {0}), 0u);
  EXPECT_EQ(bytes(DType::kF6E2M3, {4}), 3u);
  EXPECT_EQ(bytes(DType::kU8, {-1}), std::nullopt);
  EXPECT_EQ(bytes(DType::kU8, {-1, 0}), std::nullopt);
  EXPECT_EQ(bytes(DType::kU8, {int64_t{1} << 60}), uint64_t{1} << 60);
  EXPECT_EQ(bytes(DType::kU8, {int64_t{1} << 61}), std::nullopt);
  EXPECT_EQ(bytes(DType::kU8, {int64_t{1} << 62, 4}), std::nullopt);
  EXPECT_EQ(bytes(DType::kU8, {0, int64_t{1} << 62, 4}), std::nullopt);
}

}  // namespace
}  // namespace mimo::dtype_test
