#include "lib/judge/finding.h"

#include <gtest/gtest.h>

#include <set>

namespace mimo::finding_test {
namespace {

TEST(FindingKinds, EveryIdIsThereOnceAndSaysWhatItMeans) {
  std::set<std::string> ids;
  ASSERT_FALSE(FindingKinds().empty());
  for (const FindingKind& kind : FindingKinds()) {
    EXPECT_TRUE(ids.insert(kind.id).second) << kind.id;
    EXPECT_FALSE(kind.means.empty()) << kind.id;
    EXPECT_TRUE(kind.id == "refused" || !kind.advice.empty()) << kind.id;
  }
}

// "room.words_of_it": one style, so that nobody has to remember which.
TEST(FindingKinds, IdsAreWordsWithLowLines) {
  for (const FindingKind& kind : FindingKinds()) {
    if (kind.id == "refused") continue;
    const size_t dot = kind.id.find('.');
    ASSERT_NE(dot, std::string::npos) << kind.id;
    EXPECT_EQ(kind.id.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_", dot + 1), std::string::npos)
        << kind.id;
    EXPECT_EQ(kind.id.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789"), dot) << kind.id;
  }
}

TEST(Verdict, AnIdOfNoTableIsAnError) {
  Verdict verdict;
  verdict.Add("no.such", "place", "evidence");
  EXPECT_EQ(verdict.findings().front().severity, Severity::kError);
  const Status status = verdict.ToStatus();
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kBadInput);
  EXPECT_EQ(status.error().id, "no.such");
  EXPECT_NE(status.error().Message().find("[no.such]"), std::string::npos);
}

TEST(Verdict, NotesAndWarningsAreNoErrors) {
  Verdict verdict;
  verdict.Add({"a.note", Severity::kNote, "here", "this", "", 1});
  verdict.Add({"a.warning", Severity::kWarning, "there", "that", "do it", 2});
  EXPECT_TRUE(verdict.ToStatus().ok());
  EXPECT_TRUE(verdict.Has("a.warning"));
  EXPECT_EQ(verdict.CountOf(Severity::kWarning), 1u);
  EXPECT_EQ(verdict.findings()[1].Line(), "warning a.warning: there: that; do it");
}

TEST(FindingOf, ARefusalKeepsItsIdItsPlaceAndItsAdvice) {
  const Finding named = FindingOf(BadInput("GPTQ").Id("foreign.gptq").File("f").Tensor("t").Expected("e").Found("g"));
  EXPECT_EQ(named.id, "foreign.gptq");
  EXPECT_EQ(named.place, "t");
  EXPECT_EQ(named.evidence, "GPTQ: expected e, found g");
  EXPECT_EQ(FindingOf(BadInput("odd").File("f").Advice("go")).id, "refused");
}

TEST(Examples, ALongListIsCut) {
  EXPECT_EQ(Examples({"a", "b"}), "a, b");
  EXPECT_EQ(Examples({"a", "b", "c", "d", "e"}), "a, b, c and 2 more");
}

}  // namespace
}  // namespace mimo::finding_test
