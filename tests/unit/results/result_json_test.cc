// What is written of results is read back as it was.
#include "lib/results/result_json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "lib/json/parse.h"

namespace mimo::result_json_test {
namespace {

template <class Add>
nlohmann::json Written(Add add) {
  std::string text;
  JsonObject object(text);
  add(object);
  object.Close();
  return nlohmann::json::parse(text);
}

TEST(ResultJson, DoublesAreShortAndExactAndNullWhereTheyAreNotFinite) {
  const auto text = [](double value) {
    std::string out;
    AppendDouble(out, value);
    return out;
  };
  EXPECT_EQ(text(0.1), "0.1");
  EXPECT_EQ(text(5e-324), "5e-324");
  EXPECT_EQ(text(INFINITY), "null");
  EXPECT_EQ(text(NAN), "null");
  EXPECT_EQ(text(0x1p62), "4611686018427387904");
  for (const double value : {0x1p63, 0x1p64, -0x1p63, -0x1p64, 1.2345678901234568e20, 0x1p70, 1e22, 1.7e308}) {
    const auto read = ParseJson<nlohmann::json>(text(value), "x");  // which refuses integers that no 64 bits hold
    ASSERT_TRUE(read.ok()) << text(value);
    EXPECT_EQ(read.value().get<double>(), value);
  }
  const nlohmann::json document = {{"null", nullptr}, {"third", nlohmann::json::parse(text(1.0 / 3))}};
  JsonProblems problems("m", "");
  JsonMembers members(document, problems, "test");
  EXPECT_TRUE(std::isnan(TakeDouble(members, "null")));
  EXPECT_EQ(TakeDouble(members, "third"), 1.0 / 3);
}

TEST(ResultJson, CountsComeBackAndOnlyLaterOnesMayBeAbsent) {
  BlockCounts counts;
  uint64_t next = 1;
  VisitCounts([&](const char*, auto member) {
    counts.*member = static_cast<std::remove_reference_t<decltype(counts.*member)>>(next++);
  });
  const nlohmann::json all = Written([&](JsonObject& object) { AddCounts(object, counts); });
  const nlohmann::json grid = Written([&](JsonObject& object) { AddGridCounts(object, counts); });
  EXPECT_EQ(all.size(), 11u);
  EXPECT_EQ(grid.size(), 8u);
  const auto take = [](const nlohmann::json& document, bool* ok) {
    JsonProblems problems("m", "");
    JsonMembers members(document, problems, "test");
    const BlockCounts taken = TakeCounts(members);
    *ok = problems.ok();
    return taken;
  };
  bool ok = false;
  const BlockCounts back = take(all, &ok);
  EXPECT_TRUE(ok);
  VisitCounts([&](const char* name, auto member) { EXPECT_EQ(back.*member, counts.*member) << name; });
  EXPECT_EQ(take(grid, &ok).encoded_blocks, 0u);
  EXPECT_TRUE(ok);
  for (const auto& [name, value] : all.items()) {
    nlohmann::json without = all;
    without.erase(name);
    take(without, &ok);
    const bool first = name == "moved_blocks" || name == "equal_scale_blocks" || name == "requantized_blocks";
    EXPECT_EQ(ok, !first) << name;
  }
}

TEST(ResultJson, AnomaliesThatAreZeroAreLeftOut) {
  kernels::Anomalies anomalies;
  EXPECT_EQ(Written([&](JsonObject& object) { AddAnomalies(object, anomalies); }).size(), 0u);
  anomalies.bad_scales = 7;
  const nlohmann::json document = Written([&](JsonObject& object) { AddAnomalies(object, anomalies); });
  EXPECT_EQ(document, (nlohmann::json{{"bad_scales", 7}}));
  JsonProblems problems("m", "");
  JsonMembers members(document, problems, "test");
  EXPECT_EQ(TakeAnomalies(members), anomalies);
}

TEST(ResultJson, SumsOfErrorsComeBackBesideTheFiguresDerivedFromThem) {
  kernels::ErrorSums sums;
  sums.error = 0.25;
  sums.source = 100;
  sums.target = 99;
  sums.product = 99.5;
  sums.max_error = 0.125;
  sums.amax = 3;
  sums.elements = 64;
  sums.saturated = 2;
  const nlohmann::json document = Written([&](JsonObject& object) { AddError(object, sums); });
  EXPECT_EQ(document["sqnr_db"], SqnrDb(sums));
  JsonProblems problems("m", "");
  JsonMembers members(document, problems, "test");
  EXPECT_EQ(TakeError(members), sums);
  EXPECT_TRUE(problems.ok());
}

}  // namespace
}  // namespace mimo::result_json_test
