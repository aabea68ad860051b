// Who follows the reads of a plan finds every source.
#include "lib/plan/reads.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/plan/full_plan.h"
#include "tests/unit/plan/kept_plan.h"

namespace mimo::reads_test {
namespace {

TEST(Reads, ScalesToKeepAreRead) {
  using namespace kept_plan;
  const Catalogue catalogue = MakeCatalogue();
  const Plan plan = MakePlan(catalogue);
  std::vector<uint32_t> read;
  VisitGroupReads(plan, plan.groups[0], [&](uint32_t source) { read.push_back(source); });
  std::sort(read.begin(), read.end());
  EXPECT_EQ(read, (std::vector<uint32_t>{kO0, kO1, kOKeep, kX, kXKeep, kK, kV, kKvKeep}));
}

TEST(Reads, DecodingReadsScalesOfBandsAndGrids) {
  const Catalogue catalogue = full_plan::MakeCatalogue();
  const Plan plan = full_plan::MakePlan(catalogue);
  const auto decoded = [&](uint32_t source) {
    std::vector<uint32_t> read;
    VisitDecoded(plan.sources, source, [&](uint32_t s) { read.push_back(s); });
    return read;
  };
  EXPECT_EQ(decoded(0), (std::vector<uint32_t>{0, 1, 1, 1}));  // three bands
  EXPECT_EQ(decoded(5), (std::vector<uint32_t>{5, 6}));        // a grid
  EXPECT_EQ(decoded(4), std::vector<uint32_t>{4});
  EXPECT_TRUE(decoded(kNone).empty());
}

TEST(Reads, ScalesAreReadOnlyWhereRowsAreDecoded) {
  const Plan plan = full_plan::MakePlan(full_plan::MakeCatalogue());
  OutputArray output;
  output.transform = Transform::kMove;
  EXPECT_FALSE(Decodes(output, plan.sources[0]));
  output.transform = Transform::kConvert;
  EXPECT_TRUE(Decodes(output, plan.sources[0]));
  output.transform = Transform::kTranspose;
  output.target_codec = Codec::kFp8Block;  // codes are turned over as they are
  EXPECT_FALSE(Decodes(output, plan.sources[0]));
  output.target_codec = Codec::kBf16;
  EXPECT_TRUE(Decodes(output, plan.sources[0]));
  EXPECT_FALSE(Decodes(output, plan.sources[4]));  // BF16 already
}

}  // namespace
}  // namespace mimo::reads_test
