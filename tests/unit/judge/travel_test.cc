#include "lib/judge/travel.h"

#include <gtest/gtest.h>

#include "lib/model/family.h"

namespace mimo::travel_test {
namespace {

std::vector<std::string> Ids(const Verdict& verdict) {
  std::vector<std::string> ids;
  for (const Finding& finding : verdict.findings()) ids.push_back(finding.id);
  return ids;
}

TEST(JudgeTravel, EveryIdIsOfATable) {
  for (const char* id : {"travel.no_place_for_cache_scales", "travel.cache_scale_twice", "travel.stored_twice",
                         "unknown.lora", "unknown.tensor"})
    EXPECT_NE(FindKind(id), nullptr) << id;
}

TEST(JudgeTravel, FilesBesideTheIndexAreNamed) {
  Catalogue stored;
  stored.config.family = Family::Get("mimo_v2").value();
  for (const auto& [kind, word] : kStrayKinds)
    stored.strays.push_back({.file = std::string(word), .kind = kind, .tensors = 2, .held = 1, .holder = "a"});
  stored.strays.back().root = "/run";
  const Verdict verdict = JudgeTravel(stored, nullptr, {});
  EXPECT_EQ(Ids(verdict),
            (std::vector<std::string>{"travel.forgotten_file", "travel.stale_file", "travel.partly_listed_file",
                                      "travel.partly_unknown_file", "travel.unknown_file"}));
  EXPECT_EQ(verdict.findings()[1].place, "stale");
  EXPECT_EQ(verdict.findings()[4].place, "/run/unknown");
  EXPECT_EQ(verdict.CountOf(Severity::kError), 1u);
}

TEST(JudgeTravel, ScalesOfTheCacheAndWhatDeclaresThem) {
  Catalogue stored;
  stored.config.family = Family::Get("mimo_v2").value();
  stored.config.layers = 2;
  for (const char* name : {"a", "b"}) stored.arrays.emplace_back().name = name;
  Inventory inventory;
  EXPECT_TRUE(Ids(JudgeTravel(stored, &inventory, {})).empty());
  stored.kv_cache = {R"({"num_bits":8})", "config.json: x", false};
  EXPECT_EQ(Ids(JudgeTravel(stored, &inventory, {})), std::vector<std::string>{"travel.no_cache_scales"});
  EXPECT_TRUE(Ids(JudgeTravel(stored, nullptr, {})).empty());
  stored.kv_cache.dynamic = true;
  EXPECT_TRUE(Ids(JudgeTravel(stored, &inventory, {})).empty());
  inventory.cache_scales.push_back({0, {Role::kCacheKv, Part::kWeight, false, 0, -1}});
  EXPECT_EQ(Ids(JudgeTravel(stored, &inventory, {})), std::vector<std::string>{"travel.cache_scale_gaps"});
  inventory.cache_scales.push_back({0, {Role::kCacheK, Part::kWeight, false, 1, -1}});
  EXPECT_EQ(Ids(JudgeTravel(stored, &inventory, {})), std::vector<std::string>{"travel.cache_scale_gaps"});
  inventory.cache_scales.push_back({0, {Role::kCacheV, Part::kWeight, true, 1, -1}});
  EXPECT_EQ(Ids(JudgeTravel(stored, &inventory, {})), std::vector<std::string>{"travel.cache_scale_gaps"});
  inventory.cache_scales.push_back({0, {Role::kCacheV, Part::kWeight, false, 1, -1}});
  EXPECT_TRUE(Ids(JudgeTravel(stored, &inventory, {})).empty());
  inventory.cache_scales.push_back({1, {Role::kCacheV, Part::kWeight, false, 1, -1}});
  const Verdict twice = JudgeTravel(stored, &inventory, {});
  ASSERT_EQ(Ids(twice), std::vector<std::string>{"travel.two_cache_scales"});
  EXPECT_EQ(twice.findings()[0].place, "a beside b");
  inventory.cache_scales.pop_back();
  stored.kv_cache = {};
  EXPECT_EQ(Ids(JudgeTravel(stored, &inventory, {})), std::vector<std::string>{"travel.undeclared_cache_scales"});
}

TEST(JudgeTravel, RowsBeyondTheVocabularyAreCountedByTensor) {
  const std::vector<CutRows> cut = {{"a", 0, 0, 5, 0}, {"b", 1, 0, 5, 2}, {"b", 2, 0, 5, 1}};
  const Verdict verdict = JudgeTravel(Catalogue(), nullptr, cut);
  ASSERT_EQ(Ids(verdict), std::vector<std::string>{"travel.vocabulary_rows"});
  EXPECT_EQ(verdict.findings()[0].place, "b");
  EXPECT_EQ(verdict.findings()[0].count, 3u);
  EXPECT_EQ(verdict.findings()[0].evidence.substr(0, 7), "3 of 10");
}

}  // namespace
}  // namespace mimo::travel_test
