// Sources say how their arrays are decoded: what does not fit the arrays is refused.
#include <gtest/gtest.h>

#include <functional>

#include "lib/plan/validate_parts.h"
#include "tests/unit/plan/full_plan.h"

namespace mimo::validate_sources_test {
namespace {

using namespace full_plan;

TEST(CheckSource, EverySourceOfAPlanHolds) {
  const Catalogue catalogue = MakeCatalogue();
  const Plan plan = MakePlan(catalogue);
  for (const SourceArray& source : plan.sources) {
    const Status status = plan_check::CheckSource({catalogue, plan}, source);
    EXPECT_TRUE(status.ok()) << status.error().Message();
  }
}

TEST(CheckSource, WhatDoesNotFitTheArraysIsRefused) {
  const Catalogue catalogue = MakeCatalogue();
  const Plan plan = MakePlan(catalogue);
  const std::vector<std::pair<uint32_t, std::function<void(SourceArray&)>>> damages = {
      {0, [](SourceArray& s) { s.bands[0].row_begin = 1; }},
      {0, [](SourceArray& s) { s.bands[2].row_end = 255; }},
      {0, [](SourceArray& s) { s.bands[1].scale_row = -1; }},
      {0, [](SourceArray& s) { s.bands[1].scale = 99; }},
      {2, [](SourceArray& s) { s.scale = 99; }},
      {2, [](SourceArray& s) { s.scale = kNone; }},
      {5, [](SourceArray& s) { s.scale = 2; }},
      {5, [](SourceArray& s) { s.block_rows = -4; }},
      {4, [](SourceArray& s) { s.quantized = true; }},
  };
  for (size_t i = 0; i < damages.size(); ++i) {
    SourceArray source = plan.sources[damages[i].first];
    damages[i].second(source);
    EXPECT_FALSE(plan_check::CheckSource({catalogue, plan}, source).ok()) << i;
  }
}

TEST(CheckEqual, RowsMustLieInArraysOfOneWidth) {
  const Catalogue catalogue = MakeCatalogue();
  const Plan plan = MakePlan(catalogue);
  const auto holds = [&](const EqualRows& equal) { return plan_check::CheckEqual({catalogue, plan}, equal).ok(); };
  EXPECT_TRUE(holds({0, 0, 0, 128, 128}));
  EXPECT_FALSE(holds({0, 0, 0, 129, 128}));
  EXPECT_FALSE(holds({0, 0, -1, 0, 1}));
  EXPECT_FALSE(holds({0, 1, 0, 0, 1}));
  EXPECT_FALSE(holds({0, 99, 0, 0, 1}));
}

}  // namespace
}  // namespace mimo::validate_sources_test
