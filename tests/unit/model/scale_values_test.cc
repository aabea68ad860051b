// Scales of every stored type as F32, all bits of them.
#include "lib/model/scale_values.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

namespace mimo::scale_values_test {
namespace {

float Widened(DType type, uint32_t bits) {
  std::byte bytes[5] = {};  // not aligned
  std::memcpy(bytes + 1, &bits, sizeof bits);
  return WidenScale(type, bytes + 1);
}

void ExpectSame(float expected, float found, uint32_t bits) {
  if (std::isnan(expected)) {
    EXPECT_TRUE(std::isnan(found)) << bits;
  } else {
    EXPECT_EQ(expected, found) << bits;
  }
}

TEST(ScaleValues, EveryBf16IsTheUpperHalfOfAnF32) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const uint32_t wide = bits << 16;
    float expected = 0;
    std::memcpy(&expected, &wide, sizeof expected);
    ExpectSame(expected, Widened(DType::kBF16, bits), bits);
  }
}

TEST(ScaleValues, EveryF16) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const int exponent = static_cast<int>(bits >> 10 & 31), mantissa = static_cast<int>(bits & 1023);
    double expected = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    if (exponent == 31) expected = mantissa == 0 ? INFINITY : NAN;
    ExpectSame(static_cast<float>((bits & 0x8000) != 0 ? -expected : expected), Widened(DType::kF16, bits), bits);
  }
}

TEST(ScaleValues, EveryExponent) {
  for (const DType type : {DType::kF8E8M0, DType::kU8}) {
    for (uint32_t bits = 0; bits < 256; ++bits)
      ExpectSame(bits == 255 ? NAN : static_cast<float>(std::ldexp(1.0, static_cast<int>(bits) - 127)),
                 Widened(type, bits), bits);
  }
}

TEST(ScaleValues, RunsOfScalesAndOne) {
  const std::vector<float> floats = {1.5f, -2, 0, 3e-30f};
  std::vector<float> out(4);
  WidenScales(DType::kF32, reinterpret_cast<const std::byte*>(floats.data()), 4, out.data());
  EXPECT_EQ(out, floats);
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E8M0, DType::kU8}) {
    const std::string one = ScaleOfOne(type);
    EXPECT_EQ(8 * one.size(), BitsPerElement(type));
    EXPECT_EQ(WidenScale(type, reinterpret_cast<const std::byte*>(one.data())), 1.0f);
    EXPECT_TRUE(IsScaleType(type));
  }
  EXPECT_FALSE(IsScaleType(DType::kF64));
  EXPECT_FALSE(IsScaleType(DType::kF8E4M3));
}

}  // namespace
}  // namespace mimo::scale_values_test
