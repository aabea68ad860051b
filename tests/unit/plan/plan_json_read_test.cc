// Plans with kept scales, torch items and files that are not text: what is written is what is read.
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "tests/unit/plan/kept_plan.h"

namespace mimo::plan_json_read_test {
namespace {

using namespace kept_plan;

TEST(PlanKeep, RoundTripKeepsEveryField) {
  const Catalogue catalogue = MakeCatalogue();
  const Plan plan = MakePlan(catalogue);
  const Status valid = ValidatePlan(catalogue, plan);
  ASSERT_TRUE(valid.ok()) << valid.error().Message();
  const std::string text = Json(catalogue, plan);
  const auto read = ParsePlanJson(catalogue, text, "plan.json");
  ASSERT_TRUE(read.ok()) << read.error().Message() << "\n" << text;
  const Plan& found = read.value();
  EXPECT_EQ(Json(catalogue, found), text);
  EXPECT_TRUE(found.options.like);
  EXPECT_EQ(found.options.iteration, 12);
  EXPECT_EQ(found.files[0].container, &SafetensorsContainer());
  EXPECT_EQ(found.files[1].container, &TorchItemsContainer());
  EXPECT_EQ(found.files[1].header, "");
  EXPECT_EQ(found.files[1].bytes, plan.files[1].bytes);
  EXPECT_EQ(found.outputs[kItem1].begin, plan.outputs[kItem1].begin);
  EXPECT_EQ(found.texts[0].content, plan.texts[0].content);
  EXPECT_EQ(found.texts[1].content, plan.texts[1].content);
  EXPECT_EQ(found.groups[0].encoded[0].keep, uint32_t{kOKeep});
  EXPECT_EQ(found.groups[0].encoded[1].keep, uint32_t{kXKeep});
  EXPECT_EQ(found.groups[0].cells[0].keep, uint32_t{kKvKeep});
  EXPECT_EQ(found.groups[0].cells[0].keep_row, 2);
  EXPECT_EQ(found.groups[0].cells[0].segments[1].scale, kNone);
  EXPECT_EQ(found.outputs[kO].pieces[1].target_col, 40);
  const nlohmann::json document = nlohmann::json::parse(text);
  EXPECT_EQ(document["texts"][0]["base64"], "gAIAfXEALg==");
  EXPECT_FALSE(document["texts"][0].contains("content"));
  EXPECT_FALSE(document["files"][0].contains("container"));
}

// What has its usual value is left out, so that plans without any of it have the digests they had.
TEST(PlanKeep, DigestsSeeEveryField) {
  const Catalogue catalogue = MakeCatalogue();
  const Plan plan = MakePlan(catalogue);
  const std::vector<std::function<void(Plan&)>> changes = {
      [](Plan& p) { p.options.like = false; },
      [](Plan& p) { p.options.iteration = 13; },
      [](Plan& p) { p.files[1].container = &SafetensorsContainer(); },
      [](Plan& p) { p.groups[0].encoded[0].keep = kNone; },
      [](Plan& p) { p.groups[0].encoded[1].keep = kOKeep; },
      [](Plan& p) { p.groups[0].cells[0].keep = kNone; },
      [](Plan& p) { p.groups[0].cells[0].keep_row = 1; },
      [](Plan& p) { p.texts[0].content[2] = '\1'; },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    Plan changed = plan;
    changes[i](changed);
    EXPECT_NE(PlanDigest(catalogue, changed), plan.digest) << i;
  }
}

TEST(PlanKeep, BadBase64IsRefused) {
  const Catalogue catalogue = MakeCatalogue();
  const std::string text = Json(catalogue, MakePlan(catalogue));
  for (const char* bad : {"gAIAfXEALg", "gAIAfXEALh==", "gAIAfXEAL*==", "gAIAfXEALg== "}) {
    std::string edited = text;
    edited.replace(edited.find("gAIAfXEALg=="), 12, bad);
    const auto read = ParsePlanJson(catalogue, edited, "plan.json");
    ASSERT_FALSE(read.ok()) << bad;
    EXPECT_NE(read.error().Message().find("base64"), std::string::npos) << read.error().Message();
  }
}

}  // namespace
}  // namespace mimo::plan_json_read_test
