#include "lib/json/members.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace mimo::members_test {
namespace {

using nlohmann::json;

// What Close() and the reads before it found wrong: "" for nothing.
template <class Read>
std::string ProblemOf(const json& object, Read read) {
  JsonProblems problems("FILE", "make it again");
  JsonMembers members(object, problems, "things", 3);
  read(members);
  members.Close();
  const Status status = problems.Take();
  return status.ok() ? "" : status.error().Message();
}

TEST(JsonMembers, ReadsEveryTypeAndNothingElse) {
  const json object = {{"i", -5}, {"u", 7u}, {"r", 0.5}, {"b", true}, {"s", "x"}, {"l", {"a", "b"}}, {"n", nullptr}};
  EXPECT_EQ(ProblemOf(object,
                      [](JsonMembers& m) {
                        EXPECT_EQ(m.Integer<int64_t>("i"), -5);
                        EXPECT_EQ(m.Integer<uint32_t>("u"), 7u);
                        EXPECT_EQ(m.Real("r"), 0.5);
                        EXPECT_TRUE(m.Bool("b"));
                        EXPECT_EQ(m.String("s"), "x");
                        EXPECT_EQ(m.Strings("l"), (std::vector<std::string>{"a", "b"}));
                        EXPECT_TRUE(std::isnan(m.RealOrNaN("n")));
                      }),
            "");
}

TEST(JsonMembers, AMemberThatNobodyAskedForIsAProblem) {
  EXPECT_EQ(ProblemOf({{"known", 1u}, {"other", 2u}}, [](JsonMembers& m) { m.Integer<int64_t>("known"); }),
            "FILE: bad value of things[3]: expected known members only, found 1 more; make it again");
}

TEST(JsonMembers, KeepsTheFirstProblem) {
  EXPECT_EQ(ProblemOf({{"a", "text"}, {"b", "text"}},
                      [](JsonMembers& m) {
                        EXPECT_EQ(m.Integer<uint64_t>("a"), 0u);
                        m.Bool("b");
                      }),
            "FILE: bad value of things[3] \"a\": expected an integer in range, found \"text\"; make it again");
}

TEST(JsonMembers, IntegersStayInRange) {
  const json object = {{"n", 1ull << 32}, {"m", -1}};
  EXPECT_NE(ProblemOf(object, [](JsonMembers& m) { m.Integer<uint32_t>("n"), m.Integer<int64_t>("m"); }), "");
  EXPECT_NE(ProblemOf(object, [](JsonMembers& m) { m.Integer<uint64_t>("n"), m.Integer<uint64_t>("m"); }), "");
  EXPECT_EQ(ProblemOf(object, [](JsonMembers& m) { m.Integer<uint64_t>("n"), m.Integer<int32_t>("m"); }), "");
}

TEST(JsonMembers, UsualValuesStandForWhatIsAbsent) {
  EXPECT_EQ(ProblemOf(json::object(),
                      [](JsonMembers& m) {
                        EXPECT_EQ(m.Integer<uint64_t>("a", 9), 9u);
                        EXPECT_EQ(m.String("b", "usual"), "usual");
                        EXPECT_EQ(m.Real("c", 2.5), 2.5);
                      }),
            "");
}

}  // namespace
}  // namespace mimo::members_test
