// Elements of output rows: what lies between the rows of a rectangle is left alone.
#include "lib/run/adjust_rows.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace mimo::adjust_rows_test {
namespace {

ByteRectangle Of(std::vector<uint8_t>& bytes, uint64_t rows, uint64_t row_bytes, uint64_t stride) {
  return {reinterpret_cast<std::byte*>(bytes.data()), rows, row_bytes, stride};
}

TEST(AdjustRows, FillingRepeatsOneElement) {
  std::vector<uint8_t> bytes(14, 9);
  FillElements(Of(bytes, 2, 4, 7), "ab");
  EXPECT_EQ(bytes, (std::vector<uint8_t>{'a', 'b', 'a', 'b', 9, 9, 9, 'a', 'b', 'a', 'b', 9, 9, 9}));
  FillElements(Of(bytes, 2, 3, 7), "");
  EXPECT_EQ(bytes, (std::vector<uint8_t>{0, 0, 0, 'b', 9, 9, 9, 0, 0, 0, 'b', 9, 9, 9}));
}

TEST(AdjustRows, HalvedCodesCountWhatLosesABit) {
  std::vector<uint8_t> codes = {0x40, 0x01, 0x7F, 0x40};  // 2, the least subnormal, NaN; the last is not in it
  const Adjusted counts = AdjustElements(Of(codes, 1, 3, 4), Adjust::kHalve, 1);
  EXPECT_EQ(codes, (std::vector<uint8_t>{0x38, 0x00, 0x7F, 0x40}));
  EXPECT_EQ(counts.inexact_codes, 1u);
  EXPECT_EQ(counts.anomalies.nan_codes, 1u);
}

TEST(AdjustRows, BitsAreKeptOfValuesThatRoundToWhatIsThere) {
  const auto bits = [](uint32_t b) { return std::bit_cast<float>(b); };
  // Below and above the middle between two BF16 values, on it (to even, downward), a moved one, both zeros.
  const std::vector<float> kept = {bits(0x42800001), bits(0x4280FFFF), bits(0x42828000), 71.1f, -0.0f, 0.0f};
  std::vector<float> values = {bits(0x42800000), bits(0x42810000), bits(0x42820000), 72.0f, -0.0f, -0.0f};
  const uint64_t lost = KeepBits(reinterpret_cast<std::byte*>(values.data()),
                                 reinterpret_cast<const std::byte*>(kept.data()), values.size());
  EXPECT_EQ(lost, 2u);
  for (size_t i : {0u, 1u, 2u, 4u}) EXPECT_EQ(std::bit_cast<uint32_t>(values[i]), std::bit_cast<uint32_t>(kept[i]));
  EXPECT_EQ(values[3], 72.0f);
  EXPECT_EQ(std::bit_cast<uint32_t>(values[5]), 0x80000000u);
}

TEST(AdjustRows, CentredValuesLackTheMeanOfWhatIsFinite) {
  const std::vector<float> values = {70.5f, 71.0f, NAN, 72.0f, -INFINITY, 70.75f};
  std::vector<uint8_t> bytes(4 * values.size());
  std::memcpy(bytes.data(), values.data(), bytes.size());
  const Adjusted counts = AdjustElements(Of(bytes, 1, bytes.size(), bytes.size()), Adjust::kCentre, 1);
  std::vector<float> out(values.size());
  std::memcpy(out.data(), bytes.data(), bytes.size());
  EXPECT_EQ(out[0], 70.5f - 71.0625f);
  EXPECT_EQ(out[1], 71.0f - 71.0625f);
  EXPECT_TRUE(std::isnan(out[2]));
  EXPECT_EQ(out[3], 72.0f - 71.0625f);
  EXPECT_EQ(out[4], -INFINITY);
  EXPECT_EQ(out[5], 70.75f - 71.0625f);
  EXPECT_EQ(counts.anomalies.nan_codes, 1u);
  EXPECT_EQ(counts.anomalies.infinities, 1u);
}

TEST(AdjustRows, ScaledValuesCountWhatOverflows) {
  const std::vector<float> values = {1, 3e38f, INFINITY, -2};
  std::vector<uint8_t> bytes(4 * values.size());
  std::memcpy(bytes.data(), values.data(), bytes.size());
  const Adjusted counts = AdjustElements(Of(bytes, 2, 4, 8), Adjust::kScale, 4);  // every second value
  std::vector<float> out(values.size());
  std::memcpy(out.data(), bytes.data(), bytes.size());
  EXPECT_EQ(out, (std::vector<float>{4, 3e38f, INFINITY, -2}));
  EXPECT_EQ(counts.anomalies.overflows, 0u);
  EXPECT_EQ(AdjustElements(Of(bytes, 1, 8, 16), Adjust::kScale, 4).anomalies.overflows, 1u);
  EXPECT_EQ(AdjustElements(Of(bytes, 1, 8, 16), Adjust::kAsIs, 4).anomalies, kernels::Anomalies());
}

TEST(AdjustRows, ScalesThatAreNoMultiplierAreBad) {
  const std::vector<float> scales = {1, 0, -1, NAN, INFINITY, 1e-38f};
  EXPECT_EQ(BadScales(DType::kF32, reinterpret_cast<const std::byte*>(scales.data()), 4 * scales.size()), 3u);
  const std::vector<uint16_t> halves = {0x3F80, 0, 0xBF80, 0x7FC0, 0x7F80, 1};  // the same as BF16
  EXPECT_EQ(BadScales(DType::kBF16, reinterpret_cast<const std::byte*>(halves.data()), 2 * halves.size()), 3u);
}

TEST(AdjustRows, ScalesThatAreNumbersAreLookedAt) {
  OutputArray output;
  for (const Part part : {Part::kScaleInv, Part::kScale, Part::kRowScale}) {
    output.id.part = part;
    for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
      output.dtype = type;
      EXPECT_TRUE(HoldsScales(output));
    }
    for (const DType type : {DType::kU8, DType::kF8E8M0, DType::kF8E4M3}) {  // exponents, and block scales of NVFP4
      output.dtype = type;
      EXPECT_FALSE(HoldsScales(output));
    }
  }
  output.id.part = Part::kWeight;
  output.dtype = DType::kF32;
  EXPECT_FALSE(HoldsScales(output));
}

}  // namespace
}  // namespace mimo::adjust_rows_test
