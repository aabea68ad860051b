// The names of an output are one set: nothing takes a name twice, none leaves the output, none is the tool's own.
#include "lib/plan/output_names.h"

#include <gtest/gtest.h>

#include "lib/plan/plan_json.h"
#include "tests/unit/plan/full_plan.h"

namespace mimo::output_names_test {
namespace {

using Use = OutputNames::Use;

bool Takes(const std::string& name, Use use = Use::kTensors) {
  OutputNames names;
  const Status status = names.Add(name, use);
  if (!status.ok()) {
    EXPECT_EQ(status.error().code, ErrorCode::kBadInput) << name;
    EXPECT_FALSE(status.error().found.empty()) << name;
  }
  return status.ok();
}

TEST(OutputNames, NamesBelowTheOutputAreTaken) {
  for (const char* name : {"config.json", "a/b/c.safetensors", "..a", "a..", ".metadata", ".cache2/x", "caf\xc3\xa9",
                           "mimo-source/config.json", "dflash/mimo-manifest.json", "dflash/.mimo-x", "mimo-manifest"})
    EXPECT_TRUE(Takes(name)) << name;
}

TEST(OutputNames, WhatLeavesTheOutputIsRefused) {
  for (const char* name : {"", "/", "/etc/x", "..", ".", "../x", "a/..", "a/../b", "a//b", "a/", "./a", "a/./b"})
    EXPECT_FALSE(Takes(name)) << name;
  EXPECT_FALSE(Takes(std::string("a\0b", 3)));
}

TEST(OutputNames, WhatIsTheToolsOwnIsRefused) {
  for (const char* name : {"mimo-manifest.json", "mimo-manifest.json/x", ".mimo-partial", ".mimo-partial/x",
                           ".mimo-lease", ".mimo-lease-7/a/b", ".mimo-"})
    for (const Use use : {Use::kTensors, Use::kText, Use::kCarried}) EXPECT_FALSE(Takes(name, use)) << name;
}

TEST(OutputNames, OnlyWhatTravelsMayHaveControlCharactersAndNoneOtherThanUtf8) {
  for (const char* name : {"a\nb", "a\tb", "a\\b", "a\x7f"}) {
    EXPECT_TRUE(Takes(name, Use::kCarried));
    EXPECT_FALSE(Takes(name, Use::kTensors));
    EXPECT_FALSE(Takes(name, Use::kText));
  }
  for (const char* name : {"caf\xe9", "\xc0\xaf", "\xed\xa0\x80", "x/\xff/y"})
    for (const Use use : {Use::kTensors, Use::kText, Use::kCarried}) EXPECT_FALSE(Takes(name, use)) << name;
}

TEST(OutputNames, LengthsAreThoseOfFileSystems) {
  EXPECT_TRUE(Takes(std::string(255, 'a') + "/" + std::string(255, 'b')));
  EXPECT_FALSE(Takes(std::string(256, 'a')));
  EXPECT_FALSE(Takes("x/" + std::string(256, 'a') + "/y"));
  std::string deep = "a";
  while (deep.size() + 2 <= OutputNames::kMaxBytes) deep += "/a";
  EXPECT_TRUE(Takes(deep));
  EXPECT_FALSE(Takes(deep + "/a"));
}

TEST(OutputNames, ANameIsTakenOnce) {
  for (const Use first : {Use::kTensors, Use::kText, Use::kCarried}) {
    for (const Use second : {Use::kTensors, Use::kText, Use::kCarried}) {
      OutputNames names;
      ASSERT_TRUE(names.Add("a.safetensors", first).ok());
      ASSERT_TRUE(names.Add("A.safetensors", second).ok()) << "case tells names apart";
      const Status again = names.Add("a.safetensors", second);
      ASSERT_FALSE(again.ok());
      EXPECT_EQ(again.error().code, ErrorCode::kBadInput);
      EXPECT_EQ(again.error().file, "a.safetensors");
      EXPECT_EQ(again.error().advice.empty(), first != Use::kCarried && second != Use::kCarried);
    }
  }
}

TEST(OutputNames, AFileIsNoDirectoryOfAnother) {
  for (const bool file_first : {true, false}) {
    for (const char* below : {"a/b", "a/b/c/d"}) {
      OutputNames names;
      ASSERT_TRUE(names.Add("a.b", Use::kText).ok());
      ASSERT_TRUE(names.Add("ab/c", Use::kText).ok());
      ASSERT_TRUE(names.Add(file_first ? "a" : below, Use::kCarried).ok());
      const Status clash = names.Add(file_first ? below : "a", Use::kText);
      ASSERT_FALSE(clash.ok()) << below;
      EXPECT_NE(clash.error().found.find(file_first ? "a" : below), std::string::npos) << clash.error().Message();
    }
  }
}

TEST(OutputNames, ARefusedNameIsNotTaken) {
  OutputNames names;
  ASSERT_TRUE(names.Add("a", Use::kText).ok());
  ASSERT_FALSE(names.Add("a/b", Use::kText).ok());
  EXPECT_TRUE(names.Add("b", Use::kText).ok());
}

TEST(OutputNames, CarriedFilesAreThoseOfTheCheckpointAndLieInIt) {
  Catalogue catalogue = full_plan::MakeCatalogue();
  Plan plan = full_plan::MakePlan(catalogue);
  ASSERT_TRUE(CheckOutputNames(catalogue, plan).ok());
  plan.carried.emplace_back("unknown");
  EXPECT_FALSE(CheckOutputNames(catalogue, plan).ok());
  plan.carried = {"tokenizer.json", "tokenizer.json"};
  EXPECT_FALSE(CheckOutputNames(catalogue, plan).ok());
  plan.carried = {"tokenizer.json"};
  for (CarriedFile& file : catalogue.carried) file.outside = "/elsewhere/secret";
  const Status outside = CheckOutputNames(catalogue, plan);
  ASSERT_FALSE(outside.ok());
  EXPECT_EQ(outside.error().found, "/elsewhere/secret");
  EXPECT_NE(outside.error().file.find("tokenizer.json"), std::string::npos);
  EXPECT_FALSE(ValidatePlan(catalogue, plan).ok());
}

}  // namespace
}  // namespace mimo::output_names_test
