// Every value of an enumeration of the options has a word, and every word one value.
#include "lib/plan/words.h"

#include <gtest/gtest.h>

#include <set>

namespace mimo::words_test {
namespace {

// Values of the enumerations are 0, 1, 2 ...: `count` of them are all, up to the last that the test names.
template <class T, size_t N>
void ExpectWordPerValue(const Words<T, N>& words, T last) {
  ASSERT_EQ(N, static_cast<size_t>(last) + 1);
  std::set<std::string_view> seen;
  for (size_t i = 0; i < N; ++i) {
    const auto value = static_cast<T>(i);
    const std::string_view word = WordOf(words, value);
    EXPECT_NE(word, "?") << i;
    EXPECT_TRUE(seen.insert(word).second) << word;
    EXPECT_EQ(FromWord(words, word), value) << word;
  }
  EXPECT_FALSE(FromWord(words, "?").has_value());
  EXPECT_FALSE(FromWord(words, "").has_value());
}

TEST(OptionWords, EveryValueHasOneAndBack) {
  ExpectWordPerValue(kDTypeChoices, DTypeChoice::kFp32);
  ExpectWordPerValue(kStraddlePolicies, StraddlePolicy::kRefuse);
  ExpectWordPerValue(kUnknownPolicies, UnknownPolicy::kDrop);
  ExpectWordPerValue(kTargets, TargetKind::kMegatron);
  ExpectWordPerValue(kAttentionStorages, AttentionStorage::kBf16);
  ExpectWordPerValue(kScalePolicies, true);
  ExpectWordPerValue(kForms, FormKind::kTorch);
  ExpectWordPerValue(kExpertCodes, ExpertCodes::kRescale);
  ExpectWordPerValue(kRouterBiases, RouterBias::kCentred);
  ExpectWordPerValue(kFoldIntos, FoldInto::kO);
  ExpectWordPerValue(kDialects, Dialect::kCompressedTensors);
  ExpectWordPerValue(kStoredAs, StoredAs::kMxfp8);
  ExpectWordPerValue(kTies, kernels::Ties::kTowardZero);
  ExpectWordPerValue(kFp8Scales, true);
  ExpectWordPerValue(kQkvKinds, QkvKind::kSplitIndependent);
}

TEST(OptionWords, PartsOfATableKeepItsWords) {
  EXPECT_EQ(Joined(kFormats, "|", "|"), "hf|sharded-state|torch_dist");
  EXPECT_EQ(Joined(kNvfp4Rules, ", ", " or "), "max, four-over-six, sweep or mse");
  EXPECT_EQ(Joined(kMxRules, ", ", " or "), "rceil, floor, even or ceil");
  EXPECT_EQ(kNvfp4Rules.size() + kMxRules.size(), kScaleRules.size());
  for (const auto& [rule, word] : kTiesAndAlias) EXPECT_EQ(rule == kernels::Ties::kEven, word == "even");
}

}  // namespace
}  // namespace mimo::words_test
