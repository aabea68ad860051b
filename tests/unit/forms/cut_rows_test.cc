#include "lib/forms/cut_rows.h"

#include <gtest/gtest.h>

#include "lib/base/durable_file.h"
#include "lib/model/catalogue.h"
#include "lib/model/family.h"
#include "tests/faults/scratch_directory.h"

namespace mimo::cut_rows_test {
namespace {

// A file of four rows of two BF16 values behind a header of three bytes: zero, one, minus zero, one again.
TEST(CutRows, RowsThatHoldMoreThanZerosAreCounted) {
  const ScratchDirectory scratch;
  const std::string one("\x80\x3f", 2), zero(2, '\0'), minus("\x00\x80", 2);
  const std::string rows = zero + zero + zero + one + minus + zero + one + one;
  ASSERT_TRUE(WriteNewFile(PosixFileSystem(), scratch.File("f"), "abc" + rows).ok());
  Catalogue stored;
  stored.config.family = Family::Get("mimo_v2").value();
  stored.root = scratch.path();
  stored.files.emplace_back().name = "f";
  StoredArray array;
  array.dtype = DType::kBF16;
  array.shape = {4, 2};
  array.begin = 3;
  array.bytes = 16;
  stored.arrays = {array};
  std::vector<CutRows> cut = {{"x", 0, 0, 4}, {"x", 0, 1, 2}, {"x", 0, 2, 1}, {"x", 0, 3, 1}, {"x", 0, 0, 0}};
  const Status counted = CountCutRows(PosixFileSystem(), stored, &cut);
  ASSERT_TRUE(counted.ok()) << counted.error().Message();
  std::vector<int64_t> nonzero;
  for (const CutRows& part : cut) nonzero.push_back(part.nonzero);
  EXPECT_EQ(nonzero, (std::vector<int64_t>{2, 1, 0, 1, 0}));
  // Of a type without such a sign, every bit counts.
  stored.arrays[0].dtype = DType::kU16;
  cut = {{"x", 0, 0, 4}};
  ASSERT_TRUE(CountCutRows(PosixFileSystem(), stored, &cut).ok());
  EXPECT_EQ(cut[0].nonzero, 3);
}

}  // namespace
}  // namespace mimo::cut_rows_test
