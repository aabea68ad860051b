// What one scale stands for, by shapes alone.
#include "lib/model/fp8_grid.h"

#include <gtest/gtest.h>

namespace mimo::fp8_grid_test {
namespace {

std::optional<Fp8Grid> Grid(std::vector<int64_t> codes, std::vector<int64_t> scales, bool any_rows = false,
                            int64_t block_rows = 128, int64_t block_cols = 128, bool in_blocks = true) {
  return GridOf({std::move(codes), std::move(scales), block_rows, block_cols, any_rows, in_blocks});
}

TEST(Fp8Grid, Shapes) {
  EXPECT_EQ(Grid({300, 256}, {3, 2})->span, ScaleSpan::kBlock);
  EXPECT_EQ(Grid({300, 256}, {300, 1})->span, ScaleSpan::kRow);
  EXPECT_EQ(Grid({300, 256}, {300})->span, ScaleSpan::kRow);
  for (const std::vector<int64_t>& one : std::vector<std::vector<int64_t>>{{}, {1}})
    EXPECT_EQ(Grid({300, 256}, one)->span, ScaleSpan::kTensor);
  for (const std::vector<int64_t>& none :
       std::vector<std::vector<int64_t>>{{1, 1}, {2, 2}, {3}, {299}, {1, 256}, {256}, {3, 2, 1}, {300, 2}, {0}})
    EXPECT_FALSE(Grid({300, 256}, none).has_value());
}

TEST(Fp8Grid, RowsOfBlocksOfChunksAreNotJudged) {
  EXPECT_EQ(Grid({300, 256}, {4, 2}, true)->span, ScaleSpan::kBlock);
  EXPECT_FALSE(Grid({300, 256}, {4, 3}, true).has_value());
  EXPECT_EQ(Grid({300, 64}, {300, 1}, true)->span, ScaleSpan::kRow);  // one column of blocks, too many rows
  EXPECT_EQ(Grid({300, 64}, {4, 1}, true)->span, ScaleSpan::kBlock);
}

TEST(Fp8Grid, WhatMeansTheSameIsBlocks) {
  EXPECT_EQ(Grid({100, 64}, {1, 1})->span, ScaleSpan::kBlock);
  EXPECT_EQ(Grid({1, 64}, {1, 1})->span, ScaleSpan::kBlock);
  EXPECT_EQ(Grid({300, 64}, {300, 1}, false, 1, 128)->span, ScaleSpan::kBlock);
  EXPECT_FALSE(Grid({100, 256}, {1, 1}).has_value());  // the first of two blocks
  EXPECT_EQ(Grid({100, 256}, {1, 1}, false, 128, 128, false)->span, ScaleSpan::kTensor);
}

TEST(Fp8Grid, OnlyMatrices) {
  EXPECT_FALSE(Grid({4, 300, 256}, {}).has_value());
  EXPECT_FALSE(Grid({300}, {}).has_value());
}

}  // namespace
}  // namespace mimo::fp8_grid_test
