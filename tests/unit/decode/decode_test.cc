// Values of rectangles, by definition, from whatever they are stored as: the CPU kernels are all that is needed.
#include "lib/decode/decode.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "tests/unit/run/numbers.h"

namespace mimo::decode_test {
namespace {

// Arrays in memory, whole; rows may begin at any byte.
class Arrays final : public SourceMemory {
 public:
  uint32_t Add(SourceArray source, uint64_t row_bytes, std::vector<uint8_t> bytes) {
    sources_.push_back(std::move(source));
    row_bytes_.push_back(row_bytes);
    bytes.insert(bytes.begin(), 1, 0);  // not aligned
    bytes_.push_back(std::move(bytes));
    return static_cast<uint32_t>(sources_.size() - 1);
  }
  std::span<const SourceArray> sources() const override { return sources_; }
  uint64_t RowBytes(uint32_t source) const override { return row_bytes_[source]; }
  const std::byte* Row(uint32_t source, int64_t row) const override {
    return reinterpret_cast<const std::byte*>(bytes_[source].data()) + 1 +
           static_cast<uint64_t>(row) * row_bytes_[source];
  }
  const uint8_t* Bytes(uint32_t source) const { return bytes_[source].data() + 1; }

 private:
  std::vector<SourceArray> sources_;
  std::vector<uint64_t> row_bytes_;
  std::vector<std::vector<uint8_t>> bytes_;
};

std::vector<uint8_t> Floats(const std::vector<float>& values) {
  std::vector<uint8_t> bytes(4 * values.size());
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

std::vector<uint8_t> Random(size_t n, uint8_t mask) {
  std::mt19937 random(static_cast<uint32_t>(n));
  std::vector<uint8_t> bytes(n);
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(random()) & mask;
  return bytes;
}

Result<kernels::Anomalies> OnCpu(std::span<const kernels::Band> bands) {
  return kernels::ConvertBands(bands);
}

// 12 x 20 codes in blocks of 5 rows and 8 columns.
struct Fp8 {
  static constexpr int64_t kRows = 12, kCols = 20, kBlockRows = 5, kBlockCols = 8;
  Arrays arrays;
  uint32_t scales, codes;
  explicit Fp8(std::vector<float> scale_values = {1, 0.5f, 3, 0.25f, 7, 2, 1.5f, 0.125f, 5}) {
    scales = arrays.Add({}, 4 * 3, Floats(scale_values));
    SourceArray source;
    source.quantized = true;
    source.codec = Codec::kFp8Block;
    source.scale = scales;
    source.block_rows = kBlockRows;
    source.block_cols = kBlockCols;
    codes = arrays.Add(source, kCols, Random(kRows * kCols, 0xF7));  // no NaN
  }
  float Value(int64_t row, int64_t col) const {
    const uint8_t* scale = arrays.Bytes(scales) + 4 * (row / kBlockRows * 3 + col / kBlockCols);
    return lab::E4m3(arrays.Bytes(codes)[row * kCols + col]) * lab::FloatAt(scale);
  }
};

TEST(Decode, BlockFp8RectanglesBeginAndEndAnywhere) {
  const Fp8 fp8;
  for (const int64_t row : {0, 3, 5, 9}) {
    for (const int64_t col : {0, 3, 8, 13}) {
      const SourceRectangle from{fp8.codes, row, 3, row, col, 7};
      std::vector<float> out(3 * 9, -1);  // rows of 9: two columns are left alone
      auto anomalies = Decode(fp8.arrays, from, {Codec::kFp32, out.data(), 36}, OnCpu);
      ASSERT_TRUE(anomalies.ok());
      EXPECT_EQ(anomalies.value(), kernels::Anomalies());
      for (int64_t r = 0; r < 3; ++r) {
        for (int64_t c = 0; c < 9; ++c) {
          const float expected = c < 7 ? fp8.Value(row + r, col + c) : -1;
          EXPECT_EQ(out[static_cast<size_t>(9 * r + c)], expected) << row << ' ' << col << ' ' << r << ' ' << c;
        }
      }
    }
  }
}

// Scales of rows and of the whole, [rows, 1] or [rows], in every type.
TEST(Decode, ScalesOfRowsAndTensorsInEveryType) {
  constexpr int64_t kRows = 7, kCols = 33;
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E8M0, DType::kU8}) {
    for (const bool whole : {false, true}) {
      for (const bool in_a_row : {false, true}) {
        if (whole && in_a_row) continue;
        Arrays arrays;
        const uint64_t element = BitsPerElement(type) / 8;
        const int64_t count = whole ? 1 : kRows;
        // 2^e in each type: exponents are told apart by it.
        std::vector<uint8_t> bytes;
        for (int64_t i = 0; i < count; ++i) {
          const float value = std::ldexp(1.0f, static_cast<int>(i) - 3);
          const auto bits = std::bit_cast<uint32_t>(value);
          const uint32_t stored = type == DType::kF32    ? bits
                                  : type == DType::kBF16 ? bits >> 16
                                  : type == DType::kF16  ? (static_cast<uint32_t>(i) - 3 + 15) << 10
                                                         : bits >> 23;
          for (uint64_t b = 0; b < element; ++b) bytes.push_back(static_cast<uint8_t>(stored >> (8 * b)));
        }
        const uint32_t scales = arrays.Add({}, in_a_row ? element * kRows : element, bytes);
        SourceArray source;
        source.quantized = true;
        source.codec = Codec::kFp8Block;
        source.scale = scales;
        source.block_rows = whole ? kRows : 1;
        source.block_cols = kCols;
        source.scale_type = type;
        source.scales_in_a_row = in_a_row;
        const std::vector<uint8_t> codes = Random(kRows * kCols, 0xF7);
        const uint32_t from = arrays.Add(source, kCols, codes);
        for (const int64_t col : {0, 5}) {
          std::vector<float> out(static_cast<size_t>(4 * 20));
          auto anomalies = Decode(arrays, {from, 2, 4, 2, col, 20}, {Codec::kFp32, out.data(), 80}, OnCpu);
          ASSERT_TRUE(anomalies.ok());
          for (int64_t r = 0; r < 4; ++r)
            for (int64_t c = 0; c < 20; ++c)
              EXPECT_EQ(out[static_cast<size_t>(20 * r + c)],
                        lab::E4m3(codes[static_cast<size_t>((2 + r) * kCols + col + c)]) *
                            std::ldexp(1.0f, whole ? -3 : static_cast<int>(2 + r) - 3))
                  << DTypeName(type) << whole << in_a_row;
        }
      }
    }
  }
}

TEST(Decode, ABadScaleIsCountedOncePerBandHoweverItIsCut) {
  const Fp8 fp8({1, -1, 1, NAN, 1, 1, 1, 1, 1});
  for (const int64_t step : {1, 2, 3, 5, 12}) {
    uint64_t bad = 0;
    for (int64_t row = 0; row < Fp8::kRows; row += step) {
      const int64_t rows = std::min(step, Fp8::kRows - row);
      std::vector<float> out(static_cast<size_t>(rows * Fp8::kCols));
      const SourceRectangle from{fp8.codes, row, rows, 0, 0, Fp8::kCols};
      auto anomalies = Decode(fp8.arrays, from, {Codec::kFp32, out.data(), 4 * Fp8::kCols}, OnCpu);
      ASSERT_TRUE(anomalies.ok());
      bad += anomalies->bad_scales;
    }
    EXPECT_EQ(bad, 2u) << step;
  }
}

TEST(Decode, GroupsOfARowTakeTheirScalesAndTheGlobal) {
  for (const bool divides : {false, true}) {
    Arrays arrays;
    const uint32_t global = arrays.Add({}, 4, Floats({3}));
    const uint32_t scales = arrays.Add({}, 4, Random(2 * 4, 0x77));
    SourceArray source;
    source.quantized = true;
    source.codec = Codec::kNvfp4;
    source.scale = scales;
    source.global = global;
    source.global_divides = divides;
    const uint32_t codes = arrays.Add(source, 32, Random(2 * 32, 0xFF));
    std::vector<float> out(32);
    ASSERT_TRUE(Decode(arrays, {codes, 1, 1, 1, 16, 32}, {Codec::kFp32, out.data(), 128}, OnCpu).ok());
    for (size_t c = 0; c < 32; ++c) {
      const float scale = lab::E4m3(arrays.Bytes(scales)[4 + (16 + c) / 16]);
      const uint8_t byte = arrays.Bytes(codes)[32 + (16 + c) / 2];
      const float code = lab::E2m1(c % 2 == 0 ? byte & 15 : byte >> 4);
      EXPECT_EQ(out[c], code * (divides ? scale / 3 : scale * 3)) << c;
    }
  }
}

TEST(Decode, ScaledValuesRoundOnceAndOverflowsAreCounted) {
  Arrays arrays;
  SourceArray plain;
  plain.codec = Codec::kFp32;
  const std::vector<float> values = {1, 1.00390625f, -3, NAN, 3e38f, INFINITY};
  const uint32_t source = arrays.Add(plain, 4 * values.size(), Floats(values));
  std::vector<uint16_t> out(values.size());
  auto anomalies = DecodeScaled(arrays, {source, 0, 1, 0, 0, 6}, 1.5f, {Codec::kBf16, out.data(), 12}, OnCpu);
  ASSERT_TRUE(anomalies.ok());
  for (const size_t i : {0u, 1u, 2u}) EXPECT_EQ(out[i], lab::ToBf16(values[i] * 1.5f)) << i;
  EXPECT_EQ(anomalies->nan_codes, 1u);
  EXPECT_EQ(anomalies->infinities, 1u);
  EXPECT_EQ(anomalies->overflows, 1u);  // 4.5e38, not the infinity that was there
}

TEST(Decode, AnErrorOfTheConverterEndsIt) {
  const Fp8 fp8;
  std::vector<float> out(12 * 20);
  const auto failed = [](std::span<const kernels::Band>) -> Result<kernels::Anomalies> { return DeviceError("gone"); };
  const SourceRectangle all{fp8.codes, 0, 12, 0, 0, 20};
  EXPECT_EQ(Decode(fp8.arrays, all, {Codec::kFp32, out.data(), 80}, failed).error().what, "gone");
  EXPECT_EQ(DecodeScaled(fp8.arrays, all, 2, {Codec::kFp32, out.data(), 80}, failed).error().what, "gone");
}

}  // namespace
}  // namespace mimo::decode_test
