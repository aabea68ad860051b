#include "lib/forms/strays.h"

#include <gtest/gtest.h>

namespace mimo::strays_test {
namespace {

// What is said of one file of this kind; "" where it stops nothing.
std::string IdOf(StrayKind kind, UnknownPolicy policy, const std::string& root = "") {
  Catalogue stored;
  stored.strays.push_back(
      {.file = "x.safetensors", .kind = kind, .tensors = 2, .held = 1, .holder = "a", .root = root});
  const Status checked = CheckStrays(stored, policy);
  return checked.ok() ? "" : checked.error().id;
}

// By the planner alone, whoever has judged the checkpoint before.
TEST(CheckStrays, WhatNothingCanBeMadeOfIsRefusedWhateverThePolicy) {
  for (const UnknownPolicy policy : {UnknownPolicy::kRefuse, UnknownPolicy::kCarry, UnknownPolicy::kDrop}) {
    EXPECT_EQ(IdOf(StrayKind::kPartly, policy), "travel.partly_listed_file");
    EXPECT_EQ(IdOf(StrayKind::kForgotten, policy), "");
    EXPECT_EQ(IdOf(StrayKind::kStale, policy), "");
  }
}

TEST(CheckStrays, WhatNoTableKnowsIsDroppedOrCarriedWhenTold) {
  EXPECT_EQ(IdOf(StrayKind::kMixed, UnknownPolicy::kRefuse), "travel.partly_unknown_file");
  EXPECT_EQ(IdOf(StrayKind::kMixed, UnknownPolicy::kCarry), "travel.partly_unknown_file");
  EXPECT_EQ(IdOf(StrayKind::kMixed, UnknownPolicy::kDrop), "");
  EXPECT_EQ(IdOf(StrayKind::kUnknown, UnknownPolicy::kRefuse), "travel.unknown_file");
  EXPECT_EQ(IdOf(StrayKind::kUnknown, UnknownPolicy::kCarry), "");
  EXPECT_EQ(IdOf(StrayKind::kUnknown, UnknownPolicy::kCarry, "/run"), "travel.unknown_file");
  EXPECT_EQ(IdOf(StrayKind::kUnknown, UnknownPolicy::kDrop), "");
}

}  // namespace
}  // namespace mimo::strays_test
