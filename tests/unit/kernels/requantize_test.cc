// One target cell from several source scales, against a plain search in double arithmetic.
#include <gtest/gtest.h>

#include <random>

#include "tests/unit/kernels/reference.h"

namespace mimo::kernels::requantize_test {
namespace {

struct Expected {
  float scale = 0;
  int chosen = -1;
  double squared_error = 0, squared_sum = 0;
  double runner_up = std::numeric_limits<double>::infinity();  // the least error among the other candidates
  float max_error = 0, amax = 0;
  std::vector<uint8_t> codes;  // part by part, row by row
};

uint8_t Encode(float x, float scale) {
  if (std::isnan(x)) return static_cast<uint8_t>(std::signbit(x) ? 0xFF : 0x7F);
  const float ratio = x / scale;  // one FP32 rounding, as documented
  const unsigned code = reference::Nearest(reference::kE4m3, std::min(std::fabs(ratio), 448.0f));
  return static_cast<uint8_t>(code | (std::signbit(ratio) ? 0x80u : 0u));
}

Expected Search(const std::vector<CellPart>& parts, uint64_t cols, bool fresh_only) {
  Expected best;
  std::vector<float> values;
  for (const CellPart& part : parts) {
    for (uint64_t r = 0; r < part.rows; ++r) {
      for (uint64_t c = 0; c < cols; ++c) {
        const reference::Element e = reference::DecodeFp8(part.codes[r * part.code_row_bytes + c], part.scale);
        values.push_back(std::copysign(e.value, e.negative ? -1.0f : 1.0f));
        if (std::isnan(e.value) || std::isinf(e.value)) continue;
        best.amax = std::max(best.amax, std::fabs(e.value));
        best.squared_sum += double{e.value} * e.value;
      }
    }
  }
  std::vector<std::pair<float, int>> candidates;
  for (size_t i = 0; i < parts.size() && !fresh_only; ++i) {
    bool usable = parts[i].scale != 0 && std::isfinite(parts[i].scale);
    for (size_t j = 0; j < i; ++j)
      usable = usable && reference::Bits(parts[j].scale) != reference::Bits(parts[i].scale);
    if (usable) candidates.emplace_back(parts[i].scale, static_cast<int>(i));
  }
  candidates.emplace_back(std::max(best.amax, 1e-12f) / 448.0f, -1);
  bool first = true;
  for (const auto& [scale, index] : candidates) {
    double error = 0, largest = 0;
    std::vector<uint8_t> codes;
    for (const float x : values) {
      codes.push_back(Encode(x, scale));
      if (!std::isfinite(x)) continue;
      const double difference = double{reference::DecodeFp8(codes.back(), scale).value} - x;
      error += difference * difference;
      largest = std::max(largest, std::fabs(difference));
    }
    if (first || error < best.squared_error) {
      if (!first) best.runner_up = std::min(best.runner_up, best.squared_error);
      best.scale = scale;
      best.chosen = index;
      best.squared_error = error;
      best.max_error = static_cast<float>(largest);
      best.codes = codes;
    } else {
      best.runner_up = std::min(best.runner_up, error);
    }
    first = false;
  }
  return best;
}

std::vector<uint8_t> Written(const std::vector<CellPart>& parts, uint64_t cols) {
  std::vector<uint8_t> all;
  for (const CellPart& part : parts) {
    for (uint64_t r = 0; r < part.rows; ++r)
      all.insert(all.end(), part.out + r * part.out_row_bytes, part.out + r * part.out_row_bytes + cols);
  }
  return all;
}

TEST(RequantizeCell, EqualsTheSearchOnRandomCells) {
  std::mt19937 random(11);
  int source_kept = 0, fresh = 0;
  for (int round = 0; round < 300; ++round) {
    const uint64_t cols = 1 + random() % 128;
    const size_t count = 2 + random() % 5;
    const bool fresh_only = round % 5 == 4;
    std::vector<std::vector<uint8_t>> codes(count), out(count);
    std::vector<CellPart> parts(count);
    for (size_t i = 0; i < count; ++i) {
      const uint64_t rows = random() % 20, stride = cols + random() % 5;
      codes[i].resize(rows * stride + 1);
      out[i].assign(rows * stride + 1, 0xCD);
      const unsigned span = round % 4 == 0 ? 24 : 127;  // small codes: the neighbour's scale may do better
      for (uint8_t& code : codes[i]) code = static_cast<uint8_t>((random() % span) | (random() & 0x80));
      const uint32_t exponent = 112 + random() % 3;
      float scale = reference::FromBits(exponent << 23 | (random() & 0x7FFFFF));
      if (round % 7 == 1 && i == 0) scale = 0;
      if (round % 7 == 2 && i == 1) scale = -scale;
      if (round % 7 == 3 && i == 0) scale = std::numeric_limits<float>::infinity();
      if (round % 7 == 5 && i > 1) scale = parts[0].scale;
      if (round % 7 == 6 && i == 0) codes[i][0] = 0xFF;
      parts[i] = {codes[i].data(), stride, scale, out[i].data(), stride, rows};
    }
    const Expected expected = Search(parts, cols, fresh_only);
    const CellResult result = RequantizeCell(parts, cols, fresh_only);
    ASSERT_FALSE(result.moved);
    EXPECT_NEAR(result.squared_error, expected.squared_error, 1e-9 * expected.squared_error) << round;
    EXPECT_NEAR(result.squared_sum, expected.squared_sum, 1e-9 * expected.squared_sum) << round;
    EXPECT_EQ(result.amax, expected.amax) << round;
    if (expected.runner_up - expected.squared_error <= 1e-9 * expected.squared_error)
      continue;  // a tie but for summation order
    ASSERT_EQ(result.chosen, expected.chosen) << round;
    EXPECT_EQ(reference::Bits(result.scale), reference::Bits(expected.scale)) << round;
    EXPECT_EQ(result.max_error, expected.max_error) << round;
    EXPECT_EQ(Written(parts, cols), expected.codes) << round;
    (result.chosen < 0 ? fresh : source_kept) += fresh_only ? 0 : 1;
  }
  EXPECT_GT(source_kept, 20);  // both outcomes are exercised
  EXPECT_GT(fresh, 5);
}

TEST(RequantizeCell, EqualScalesAreMovedBitForBit) {
  const uint8_t a[4] = {0xFF, 0x80, 0x7E, 0x01}, b[2] = {0x7F, 0x33};
  for (const bool fresh_only : {false, true}) {
    uint8_t out_a[4] = {}, out_b[2] = {};
    const std::vector<CellPart> parts = {{a, 2, 0.5f, out_a, 2, 2}, {b, 2, 0.5f, out_b, 2, 1}};
    const CellResult result = RequantizeCell(parts, 2, fresh_only);
    EXPECT_TRUE(result.moved);
    EXPECT_EQ(result.scale, 0.5f);
    EXPECT_EQ(result.chosen, 0);
    EXPECT_EQ(result.squared_error, 0);
    EXPECT_EQ(result.amax, 224.0f);
    EXPECT_EQ(result.anomalies.nan_codes, 2u);
    EXPECT_EQ(std::memcmp(a, out_a, 4), 0);
    EXPECT_EQ(std::memcmp(b, out_b, 2), 0);
  }
}

TEST(RequantizeCell, FirstScaleWinsATie) {
  // 1.0 and 2.0 under 1, 1.0 under 2: exact under both scales, and under the fresh one not better.
  const uint8_t a[2] = {0x38, 0x40}, b[2] = {0x38, 0x38};
  uint8_t out_a[2], out_b[2];
  const std::vector<CellPart> parts = {{a, 2, 1.0f, out_a, 2, 1}, {b, 2, 2.0f, out_b, 2, 1}};
  const CellResult result = RequantizeCell(parts, 2);
  EXPECT_EQ(result.chosen, 0);
  EXPECT_EQ(result.squared_error, 0);
  EXPECT_EQ(out_a[0], 0x38);
  EXPECT_EQ(out_b[0], 0x40);  // 2.0 under scale 1
  const std::vector<CellPart> swapped = {parts[1], parts[0]};
  EXPECT_EQ(RequantizeCell(swapped, 2).scale, 2.0f);
}

TEST(RequantizeCell, RoundsTiesToEvenSaturatesAndKeepsNegativeZero) {
  // Under scale 1 (kept: it is the only finite non-zero scale with the least error), 17 = 8.5 * 2 is a tie between 16
  // and 18.
  const uint8_t a[4] = {0x80, 0x00, 0x7E, 0x38}, b[4] = {0x80, 0x52, 0x01, 0x81};
  uint8_t out_a[4], out_b[4];
  const std::vector<CellPart> parts = {{a, 4, 1.0f, out_a, 4, 1}, {b, 4, 1.7f, out_b, 4, 1}};
  const CellResult result = RequantizeCell(parts, 4);
  ASSERT_EQ(result.scale, 1.0f);
  EXPECT_EQ(out_a[0], 0x80);
  EXPECT_EQ(out_b[0], 0x80);
  EXPECT_EQ(b[1], 0x52);      // 10 * 1.7f = 17 in FP32
  EXPECT_EQ(out_b[1], 0x58);  // 16, the even neighbour
  EXPECT_EQ(out_b[2], 0x02);  // 1.7 * 2^-9 rounds to 2 * 2^-9
  EXPECT_EQ(out_b[3], 0x82);
}

TEST(RequantizeCell, CountsAnomalies) {
  const uint8_t a[3] = {0x38, 0x7F, 0x00}, b[3] = {0x40, 0xFF, 0x7E};
  uint8_t out_a[3], out_b[3];
  const std::vector<CellPart> parts = {{a, 3, 0.0f, out_a, 3, 1}, {b, 3, 0x1p125f, out_b, 3, 1}};
  const CellResult result = RequantizeCell(parts, 3);
  EXPECT_EQ(result.anomalies.nan_codes, 2u);
  EXPECT_EQ(result.anomalies.zero_scale_codes, 2u);  // 0x38 and the NaN code
  EXPECT_EQ(result.anomalies.overflows, 1u);         // 448 * 2^125
  EXPECT_EQ(result.anomalies.bad_scales, 0u);
  EXPECT_EQ(out_a[1], 0x7F);
  EXPECT_EQ(out_b[1], 0xFF);
}

}  // namespace
}  // namespace mimo::kernels::requantize_test
