// What is done to each output, in words.
#include "lib/plan/operations.h"

#include <gtest/gtest.h>

#include "tests/unit/plan/full_plan.h"

namespace mimo::operations_test {
namespace {

TEST(Operations, OfEveryOutput) {
  const Catalogue catalogue = full_plan::MakeCatalogue();
  const std::vector<Operations> operations = OperationsOf(catalogue, full_plan::MakePlan(catalogue));
  const std::vector<std::string> expected = {
      "moved, split, replicated, 2 blocks re-quantized",  // codes under a new grid, read a second time as FP32
      "moved, 2 blocks re-quantized",                     // their scales
      "converted, split, replicated",
      "converted",
      "moved",
      "converted, split",
      "moved",
  };
  ASSERT_EQ(operations.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_EQ(OperationsText(operations[i]), expected[i]) << i;
}

TEST(Operations, EveryOneHasAWord) {
  Operations all{true, true, true, true, true, true, true, true, true, true, 3};
  EXPECT_EQ(OperationsText(all),
            "moved, converted, quantized, transposed, constant, scaled, fused, split, replicated, padded, 3 blocks "
            "re-quantized");
  EXPECT_EQ(OperationsText({}), "");
}

}  // namespace
}  // namespace mimo::operations_test
