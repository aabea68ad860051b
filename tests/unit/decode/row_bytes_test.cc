#include "lib/decode/row_bytes.h"

#include <gtest/gtest.h>

namespace mimo::row_bytes_test {
namespace {

using kernels::Codec;

TEST(RowBytes, ColumnsAndBytesAreInverse) {
  for (const Codec codec :
       {Codec::kFp32, Codec::kFp16, Codec::kBf16, Codec::kFp8Block, Codec::kMxfp8, Codec::kMxfp4, Codec::kNvfp4}) {
    for (const int64_t cols : {0, 2, 32, 1000}) {
      EXPECT_EQ(ValueColumns(codec, ColumnBytes(codec, cols)), static_cast<uint64_t>(cols));
    }
  }
  EXPECT_EQ(ColumnBytes(Codec::kFp32, 3), 12u);
  EXPECT_EQ(ColumnBytes(Codec::kBf16, 3), 6u);
  EXPECT_EQ(ColumnBytes(Codec::kFp8Block, 3), 3u);
  EXPECT_EQ(ColumnBytes(Codec::kNvfp4, 6), 3u);
}

TEST(RowBytes, ARowIsTheLastDimension) {
  EXPECT_EQ(RowElements({}), 1);
  EXPECT_EQ(RowElements({7}), 7);
  EXPECT_EQ(RowElements({3, 4, 5}), 5);
  EXPECT_EQ(Rows(1 << 20, 1 << 20), uint64_t{1} << 40);
}

}  // namespace
}  // namespace mimo::row_bytes_test
