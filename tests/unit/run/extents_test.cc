// Ranges of files become few requests.
#include "lib/run/extents.h"

#include <gtest/gtest.h>

namespace mimo::extents_test {
namespace {

TEST(Extents, NearRangesAreOneRequestAndFarOnesAreNot) {
  Extents extents;
  extents.Add(0, 1000, 10);
  extents.Add(0, 1200, 10);
  extents.Add(0, 200'000, 5);
  extents.Add(1, 1100, 5);
  extents.Add(0, 1005, 50);
  extents.Place(128, 64 << 10, 1 << 20);
  ASSERT_EQ(extents.list().size(), 3u);
  EXPECT_EQ(extents.list()[0].begin, 1000u);
  EXPECT_EQ(extents.list()[0].bytes, 210u);
  EXPECT_EQ(extents.OffsetOf(0, 1205) - extents.OffsetOf(0, 1000), 205u);
  for (const Extent& extent : extents.list()) EXPECT_EQ(extent.offset % 64, extent.begin % 64);
  Extents tight;
  tight.Add(0, 0, 10);
  tight.Add(0, 1000, 10);
  tight.Place(0, 64 << 10, 200);  // the gap would not fit
  EXPECT_EQ(tight.list().size(), 2u);
}

TEST(Extents, RangesThatOverlapOrRepeatAreReadOnce) {
  Extents extents;
  for (const uint64_t begin : {40, 0, 20, 0}) extents.Add(3, begin, 30);
  extents.Add(3, 500, 0);  // nothing
  extents.Place(7, 0, 0);
  ASSERT_EQ(extents.list().size(), 1u);
  EXPECT_EQ(extents.list()[0].begin, 0u);
  EXPECT_EQ(extents.list()[0].bytes, 70u);
  EXPECT_EQ(extents.end(), extents.list()[0].offset + 70);
  EXPECT_GE(extents.list()[0].offset, 7u);
}

TEST(Extents, NoneTakeNoRoom) {
  Extents extents;
  extents.Place(128, 64 << 10, 0);
  EXPECT_TRUE(extents.list().empty());
  EXPECT_EQ(extents.end(), 128u);
}

}  // namespace
}  // namespace mimo::extents_test
