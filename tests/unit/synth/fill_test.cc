// Filler gives the same bytes however the rows are asked for, and only legal values.
#include "lib/synth/fill.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

namespace mimo::fill_test {
namespace {

struct Kind {
  Fill fill;
  DType dtype;
  size_t element_bytes;
};
const Kind kKinds[] = {{Fill::kFp8Codes, DType::kF8E4M3, 1}, {Fill::kFp8Scales, DType::kF32, 4},
                       {Fill::kMxfp4Codes, DType::kU8, 1},   {Fill::kMxfp4Scales, DType::kU8, 1},
                       {Fill::kWeight, DType::kBF16, 2},     {Fill::kNorm, DType::kBF16, 2},
                       {Fill::kSink, DType::kBF16, 2},       {Fill::kRouter, DType::kF32, 4},
                       {Fill::kRouter, DType::kBF16, 2},     {Fill::kRouterBias, DType::kF32, 4}};

// Two chunks of 150 rows of which the tensor holds the last 100: odd widths, so that no row begins on a random word.
SynthTensor Odd(const Kind& kind) {
  SynthTensor tensor;
  tensor.info.name = "odd";
  tensor.cells = "odd";
  tensor.fill = kind.fill;
  tensor.info.dtype = kind.dtype;
  tensor.grid.chunks = 2;
  tensor.grid.chunk_rows = 150;
  tensor.grid.part_begin = 50;
  tensor.grid.part_rows = 100;
  tensor.grid.cols = 133;
  tensor.info.shape = {200, 133};
  if (kind.fill == Fill::kFp8Scales) tensor.info.shape = {2, 2};
  return tensor;
}

TEST(Fill, BytesDoNotDependOnHowRowsAreAskedFor) {
  const Filler filler(7);
  for (const Kind& kind : kKinds) {
    const SynthTensor tensor = Odd(kind);
    const size_t row_bytes = static_cast<size_t>(tensor.info.shape[1]) * kind.element_bytes;
    const int64_t rows = tensor.info.shape[0];
    std::vector<std::byte> whole(row_bytes * static_cast<size_t>(rows));
    filler.Rows(tensor, 0, rows, whole);
    std::vector<std::byte> parts(whole.size());
    for (int64_t row = 0, step = 1; row < rows; row += step, step = step % 5 + 1) {
      const int64_t take = std::min(step, rows - row);
      filler.Rows(
          tensor, row, take,
          std::span(parts).subspan(static_cast<size_t>(row) * row_bytes, static_cast<size_t>(take) * row_bytes));
    }
    EXPECT_TRUE(whole == parts) << static_cast<int>(kind.fill);
    std::vector<std::byte> other(whole.size());
    Filler(8).Rows(tensor, 0, rows, other);
    EXPECT_TRUE(whole != other) << static_cast<int>(kind.fill);
  }
}

TEST(Fill, ValuesLieInTheStatedRanges) {
  const Filler filler(7);
  for (const Kind& kind : kKinds) {
    const SynthTensor tensor = Odd(kind);
    std::vector<std::byte> bytes(static_cast<size_t>(tensor.info.shape[0] * tensor.info.shape[1]) * kind.element_bytes);
    filler.Rows(tensor, 0, tensor.info.shape[0], bytes);
    double sum = 0;
    double squares = 0;
    const size_t count = bytes.size() / kind.element_bytes;
    std::vector<int> codes(256, 0);
    for (size_t i = 0; i < count; ++i) {
      float value = 0;
      if (kind.dtype == DType::kF32) std::memcpy(&value, &bytes[4 * i], 4);
      if (kind.dtype == DType::kBF16) std::memcpy(reinterpret_cast<std::byte*>(&value) + 2, &bytes[2 * i], 2);
      if (kind.element_bytes == 1) ++codes[std::to_integer<size_t>(bytes[i])];
      sum += value;
      squares += static_cast<double>(value) * value;
    }
    const double mean = sum / static_cast<double>(count);
    const double deviation = std::sqrt(squares / static_cast<double>(count) - mean * mean);
    switch (kind.fill) {
      case Fill::kFp8Codes:
        for (int code = 0; code < 0x7E; ++code) EXPECT_TRUE(codes[code] > 0 && codes[code + 0x80] > 0) << code;
        EXPECT_EQ(codes[0x7F] + codes[0xFF], 0);
        break;
      case Fill::kMxfp4Scales:
        for (int code = 0; code < 256; ++code) EXPECT_EQ(codes[code] > 0, code >= 116 && code <= 124) << code;
        break;
      case Fill::kMxfp4Codes:
        for (int code = 0; code < 256; ++code) EXPECT_GT(codes[code], 0);
        break;
      case Fill::kFp8Scales:
        EXPECT_GT(mean, 0.0);
        break;
      case Fill::kNorm:
        EXPECT_NEAR(mean, 1.0, 0.01);
        EXPECT_NEAR(deviation, 0.1, 0.01);
        break;
      case Fill::kSink:
        EXPECT_NEAR(deviation, 1.0, 0.05);
        break;
      case Fill::kRouterBias:
        EXPECT_NEAR(mean, 70.9, 1e-4);
        EXPECT_NEAR(deviation, 3e-4, 1e-4);
        break;
      case Fill::kWeight:
      case Fill::kRouter:
        EXPECT_NEAR(mean, 0.0, 0.001);
        EXPECT_NEAR(deviation, 0.02, 0.001);
        break;
    }
  }
}

}  // namespace
}  // namespace mimo::fill_test
