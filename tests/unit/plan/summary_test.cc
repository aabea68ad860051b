// What a plan comes to.
#include "lib/plan/summary.h"

#include <gtest/gtest.h>

#include "tests/unit/plan/full_plan.h"

namespace mimo::summary_test {
namespace {

TEST(Summary, CountsTensorsFilesAndBytes) {
  const Catalogue catalogue = full_plan::MakeCatalogue();
  const Plan plan = full_plan::MakePlan(catalogue);
  const PlanSummary s = Summarize(catalogue, plan);
  EXPECT_EQ(s.outputs, 7u);
  EXPECT_EQ(s.moved, 2u);
  EXPECT_EQ(s.converted, 3u);
  EXPECT_EQ(s.relaid, 2u);
  EXPECT_EQ(s.encoded + s.transposed + s.constants + s.padded, 0u);
  EXPECT_EQ(s.dropped, 1u);
  EXPECT_EQ(s.files, 2u);
  EXPECT_EQ(s.files_unchanged, 1u);
  EXPECT_EQ(s.bytes_written, plan.files[0].bytes + plan.files[1].bytes);
  EXPECT_EQ(s.bytes_unchanged, plan.files[1].bytes);
  ASSERT_EQ(s.relayouts.size(), 1u);
  EXPECT_EQ(s.relayouts[0].label, "layer \"0\"");
  EXPECT_EQ(s.relayouts[0].blocks, 4u);
  EXPECT_EQ(s.relayouts[0].straddling_blocks, 2u);
  EXPECT_TRUE(s.shared_group_bytes.empty());
}

}  // namespace
}  // namespace mimo::summary_test
