// Figures that are derived from sums of errors, and thresholds on them.
#include "lib/results/errors.h"

#include <gtest/gtest.h>

#include <cmath>

#include "lib/results/manifest.h"

namespace mimo::errors_test {
namespace {

TEST(Errors, FiguresFollowTheirDefinitions) {
  kernels::ErrorSums sums;
  sums.error = 4;
  sums.source = 400;
  sums.target = 900;
  sums.product = 300;
  sums.max_error = 1;
  sums.amax = 8;
  EXPECT_DOUBLE_EQ(SqnrDb(sums), 20);
  EXPECT_DOUBLE_EQ(RelativeRms(sums), 0.1);
  EXPECT_DOUBLE_EQ(MaxErrorByAmax(sums), 0.125);
  EXPECT_DOUBLE_EQ(Cosine(sums), 0.5);
}

TEST(Errors, WithoutErrorEveryFigureIsThatOfEquals) {
  const kernels::ErrorSums none;  // zeros: no division by them
  EXPECT_TRUE(std::isinf(SqnrDb(none)));
  EXPECT_EQ(RelativeRms(none), 0);
  EXPECT_EQ(MaxErrorByAmax(none), 0);
  EXPECT_EQ(Cosine(none), 1);
}

TEST(Errors, AThresholdIsARoleAndANumber) {
  const auto threshold = ParseThreshold("expert.down=17.5");
  ASSERT_TRUE(threshold.ok());
  EXPECT_EQ(threshold.value().role, "expert.down");
  EXPECT_EQ(threshold.value().min_sqnr_db, 17.5);
  for (const char* text :
       {"", "experts", "experts=", "experts=a", "experts=1x", "experts=nan", "experts=inf", "nobody=3"}) {
    const auto bad = ParseThreshold(text);
    ASSERT_FALSE(bad.ok()) << text;
    EXPECT_EQ(bad.error().code, ErrorCode::kUsage) << text;
  }
}

// A plan of one encoded weight, an expert's.
Plan OneWeight() {
  Plan plan;
  OutputArray output;
  output.name = "w";
  output.id.role = *RoleFromName("expert.down");
  output.transform = Transform::kEncode;
  plan.outputs.push_back(output);
  return plan;
}

TEST(Errors, AThresholdMustSpeakOfAWeightThatIsEncoded) {
  Plan plan = OneWeight();
  EXPECT_TRUE(CheckThresholds(plan, {{"experts", 1}, {"all", 1}, {"expert.down", 1}}).ok());
  EXPECT_EQ(CheckThresholds(plan, {{"experts", 1}, {"attention", 1}}).error().code, ErrorCode::kUsage);
  plan.outputs[0].transform = Transform::kMove;
  EXPECT_EQ(CheckThresholds(plan, {{"all", 1}}).error().code, ErrorCode::kUsage);
}

TEST(Errors, WhatIsBelowAThresholdOrNoNumberIsRejectedByName) {
  const Plan plan = OneWeight();
  RunResults results;
  results.tensors.resize(1);
  EXPECT_TRUE(Rejections(plan, results, {{"all", 20}}).empty());  // not measured
  results.tensors[0].error.emplace();
  results.tensors[0].error->error = 1;
  results.tensors[0].error->source = 100;
  EXPECT_TRUE(Rejections(plan, results, {{"all", 20}, {"mtp", 99}}).empty());
  EXPECT_EQ(Rejections(plan, results, {{"all", 20.5}}),
            std::vector<std::string>{"w: SQNR 20.00 dB, below all=20.5 dB"});
  results.tensors[0].error->source = NAN;
  EXPECT_EQ(Rejections(plan, results, {{"all", -99}}).size(), 1u);
}

}  // namespace
}  // namespace mimo::errors_test
