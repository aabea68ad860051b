// Conditions of tables over facts, and the files that are embedded.
#include "lib/forms/rules.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace mimo::rules_test {
namespace {

TEST(Rules, OperatorsAndTheirErrors) {
  const Facts facts{{"tp", int64_t{4}}, {"chunks", int64_t{8}}, {"qkv", std::string("fused")}};
  const auto holds = [&](const char* condition) {
    const Result<bool> result = Holds(condition, facts);
    EXPECT_TRUE(result.ok()) << condition;
    return result.ok() && result.value();
  };
  EXPECT_TRUE(holds("tp = 4"));
  EXPECT_FALSE(holds("tp = chunks"));
  EXPECT_TRUE(holds("tp != chunks"));
  EXPECT_TRUE(holds("tp divides chunks"));
  EXPECT_FALSE(holds("chunks divides tp"));
  EXPECT_TRUE(holds("tp < chunks"));
  EXPECT_TRUE(holds("chunks >= 8"));
  EXPECT_FALSE(holds("chunks > 8"));
  EXPECT_TRUE(holds("qkv = fused"));
  EXPECT_TRUE(holds("qkv != split"));
  EXPECT_FALSE(holds("qkv = 4"));
  for (const char* bad : {"tp", "tp =", "nothing = 1", "tp like 4", "qkv < 3"}) {
    EXPECT_FALSE(Holds(bad, facts).ok()) << bad;
  }
}

TEST(Rules, AllMustHoldAndAnErrorIsNoAnswer) {
  const Facts facts{{"tp", int64_t{4}}, {"kv_heads", int64_t{8}}, {"zero", int64_t{0}}};
  const auto all = [&](const std::vector<std::string>& conditions) { return AllHold(conditions, facts); };
  EXPECT_TRUE(all({}).value());
  EXPECT_TRUE(all({"tp = 4", "tp divides kv_heads"}).value());
  EXPECT_FALSE(all({"tp = 4", "tp = kv_heads"}).value());
  EXPECT_FALSE(all({"zero divides tp"}).value());
  const auto unknown = all({"tp = 4", "pp = 1"});
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.error().code, ErrorCode::kBadInput);
  EXPECT_NE(unknown.error().Message().find("pp"), std::string::npos);
}

TEST(Rules, WhatWasObserved) {
  const Facts facts{{"tp", int64_t{4}}, {"qkv", std::string("fused")}};
  EXPECT_EQ(Observed("tp < 8", facts), "tp = 4");
  EXPECT_EQ(Observed("qkv = split", facts), "qkv = fused");
  EXPECT_EQ(Observed("pp = 1", facts), "pp unknown");
}

TEST(Rules, TablesAreEmbeddedByTheirPathAndOthersAreEmpty) {
  for (const char* path : {"engines.json", "targets.json", "forms/vllm-0.33.json"})
    EXPECT_FALSE(nlohmann::json::parse(EmbeddedText(path), nullptr, false).is_discarded()) << path;
  EXPECT_EQ(EmbeddedText("forms/none.json"), "");
  EXPECT_EQ(EmbeddedText(""), "");
}

}  // namespace
}  // namespace mimo::rules_test
