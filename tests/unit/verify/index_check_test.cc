// An index that does not say where tensors are is told apart, entry by entry.
#include "lib/verify/index_check.h"

#include <gtest/gtest.h>

#include "tests/unit/run/lab.h"

namespace mimo::index_check_test {
namespace {

std::vector<IndexProblem> Compare(const std::string& index) {
  const ScratchDirectory directory;
  lab::WriteFile(directory.File("i"), lab::Bytes(index.begin(), index.end()));
  auto problems = CompareIndex(PosixFileSystem(), directory.File("i"), {{"a", "1"}, {"b", "2"}}, 100);
  EXPECT_TRUE(problems.ok());
  return problems.ok() ? std::move(problems).value() : std::vector<IndexProblem>();
}

TEST(CompareIndex, WhatAgreesHasNoProblem) {
  EXPECT_TRUE(Compare(R"({"metadata":{"total_size":100},"weight_map":{"a":"1","b":"2"}})").empty());
  EXPECT_TRUE(Compare(R"({"weight_map":{"b":"2","a":"1"}})").empty());
}

TEST(CompareIndex, EveryDifferenceIsNamed) {
  const auto problems = Compare(R"({"metadata":{"total_size":99},"weight_map":{"a":"2","c":"1"}})");
  ASSERT_EQ(problems.size(), 4u);
  EXPECT_EQ(problems[0].tensor, "a");
  EXPECT_EQ(problems[0].found, "2");
  EXPECT_EQ(problems[1].tensor, "c");
  EXPECT_EQ(problems[2].tensor, "b");
  EXPECT_EQ(problems[2].what, "not in the index");
  EXPECT_EQ(problems[3].found, "99");
}

TEST(CompareIndex, AnEntryThatIsNoFileNameIsAProblem) {
  for (const char* value : {"[]", "{}", "1", "null", "[\"1\"]"}) {
    const auto problems = Compare(std::string(R"({"weight_map":{"a":"1","b":"2","c":)") + value + "}}");
    ASSERT_EQ(problems.size(), 1u) << value;
    EXPECT_EQ(problems[0].tensor, "c");
    EXPECT_EQ(Compare(std::string(R"({"weight_map":{"b":"2","a":)") + value + "}}").size(), 1u) << value;
  }
}

TEST(CompareIndex, WhatIsNoObjectIsOneProblem) {
  EXPECT_EQ(Compare("[1]").size(), 1u);
  EXPECT_EQ(Compare("{").size(), 1u);
  EXPECT_EQ(Compare(R"({"weight_map":{"a":"1","b":"2","a":"1"}})").size(), 2u);  // and "a" is in no manifest again
  EXPECT_EQ(Compare(std::string(100'000, '[')).size(), 1u);
}

TEST(CompareIndex, AMissingIndexIsAnError) {
  const auto problems = CompareIndex(PosixFileSystem(), "/nowhere/i", {}, 0);
  ASSERT_FALSE(problems.ok());
  EXPECT_EQ(problems.error().code, ErrorCode::kIo);
}

}  // namespace
}  // namespace mimo::index_check_test
