// Counts of blocks are added, named and ordered in one place.
#include "lib/results/block_counts.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <type_traits>
#include <vector>

namespace mimo::block_counts_test {
namespace {

// Every count another number, from `first` on.
BlockCounts Numbered(int first) {
  BlockCounts counts;
  VisitCounts([&](const char*, auto member) {
    counts.*member = static_cast<std::remove_reference_t<decltype(counts.*member)>>(first++);
  });
  return counts;
}

TEST(BlockCounts, AllAreVisitedOnceInTheOrderOfTheDocuments) {
  std::vector<std::string> grid, all;
  VisitGridCounts([&](const char* name, auto) { grid.push_back(name); });
  VisitCounts([&](const char* name, auto) { all.push_back(name); });
  const std::vector<std::string> expected = {"moved_blocks", "equal_scale_blocks", "requantized_blocks", "kept_blocks",
                                             "fresh_blocks", "squared_error",      "squared_sum",        "max_error"};
  EXPECT_EQ(grid, expected);
  ASSERT_EQ(all.size() * 8, sizeof(BlockCounts));  // a count that is not visited would be neither added nor written
  EXPECT_TRUE(std::equal(grid.begin(), grid.end(), all.begin()));
  EXPECT_EQ(all[8], "encoded_blocks");
  EXPECT_EQ(all[9], "exact_blocks");
  EXPECT_EQ(all[10], "inexact_codes");
}

TEST(BlockCounts, SumsAddAllButTheLargestError) {
  BlockCounts counts = Numbered(1);
  counts += Numbered(100);
  int i = 0;
  VisitCounts([&](const char* name, auto member) {
    const double expected = std::string(name) == "max_error" ? 107 : 101 + 2 * i;
    EXPECT_EQ(static_cast<double>(counts.*member), expected) << name;
    ++i;
  });
  counts += Numbered(0);
  EXPECT_EQ(counts.max_error, 107);
}

TEST(BlockCounts, AnInfiniteErrorStaysInfinite) {
  BlockCounts counts = Numbered(1), infinite;
  infinite.squared_error = infinite.max_error = std::numeric_limits<double>::infinity();
  counts += infinite;
  counts += Numbered(1);
  EXPECT_EQ(counts.squared_error, infinite.squared_error);
  EXPECT_EQ(counts.max_error, infinite.max_error);
}

}  // namespace
}  // namespace mimo::block_counts_test
