#include "lib/decode/source_array.h"

#include <gtest/gtest.h>

#include <tuple>
#include <vector>

namespace mimo::source_array_test {
namespace {

using Band = std::tuple<int64_t, int64_t, uint32_t, int64_t>;
using Rows = std::tuple<uint32_t, int64_t, int64_t>;

std::vector<Band> Bands(const SourceArray& source, int64_t row, int64_t rows) {
  std::vector<Band> bands;
  for (const SourceBand& b : BandsOf(source, row, rows))
    bands.emplace_back(b.row_begin, b.row_end, b.scale, b.scale_row);
  return bands;
}

std::vector<Rows> ScaleRows(const SourceArray& source, int64_t row, int64_t rows) {
  std::vector<Rows> all;
  VisitScaleRows(source, row, rows,
                 [&](uint32_t scale, int64_t first, int64_t count) { all.emplace_back(scale, first, count); });
  return all;
}

SourceArray Quantized(Codec codec, uint32_t scale) {
  SourceArray source;
  source.quantized = true;
  source.codec = codec;
  source.scale = scale;
  return source;
}

TEST(SourceArray, AUniformGridIsCutAtItsBlocks) {
  SourceArray source = Quantized(Codec::kFp8Block, 5);
  source.block_rows = 10;
  EXPECT_EQ(Bands(source, 7, 16), (std::vector<Band>{{7, 10, 5, 0}, {10, 20, 5, 1}, {20, 23, 5, 2}}));
  EXPECT_EQ(Bands(source, 10, 10), (std::vector<Band>{{10, 20, 5, 1}}));
  EXPECT_EQ(ScaleRows(source, 7, 16), (std::vector<Rows>{{5, 0, 3}}));
  EXPECT_EQ(ScaleRows(source, 19, 1), (std::vector<Rows>{{5, 1, 1}}));
}

TEST(SourceArray, AGridOfItsOwnIsCutAtItsBands) {
  SourceArray source = Quantized(Codec::kFp8Block, kNone);
  source.bands = {{0, 4, 1, 9}, {4, 5, 2, 0}, {5, 20, 1, 3}};
  EXPECT_EQ(Bands(source, 3, 3), (std::vector<Band>{{3, 4, 1, 9}, {4, 5, 2, 0}, {5, 6, 1, 3}}));
  EXPECT_EQ(Bands(source, 5, 15), (std::vector<Band>{{5, 20, 1, 3}}));
  EXPECT_EQ(ScaleRows(source, 3, 2), (std::vector<Rows>{{1, 9, 1}, {2, 0, 1}}));
}

TEST(SourceArray, GroupsHaveARowOfScalesForEveryRowAndPlainValuesNone) {
  SourceArray source = Quantized(Codec::kNvfp4, 3);
  source.global = 4;
  EXPECT_EQ(ScaleRows(source, 8, 2), (std::vector<Rows>{{3, 8, 2}, {4, 0, 1}}));
  EXPECT_EQ(ScaleRows(Quantized(Codec::kMxfp4, 3), 8, 2), (std::vector<Rows>{{3, 8, 2}}));
  EXPECT_TRUE(ScaleRows(SourceArray(), 8, 2).empty());
}

}  // namespace
}  // namespace mimo::source_array_test
