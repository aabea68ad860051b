#include "lib/base/pattern.h"

#include <gtest/gtest.h>

namespace mimo::pattern_test {
namespace {

TEST(Pattern, IsFoundAnywhere) {
  const Result<Pattern> pattern = Pattern::Make(R"(layers\.(1|3)\.mlp)");
  ASSERT_TRUE(pattern.ok());
  EXPECT_TRUE(pattern.value().FoundIn("model.layers.3.mlp.up_proj.weight"));
  EXPECT_FALSE(pattern.value().FoundIn("model.layers.2.mlp.up_proj.weight"));
  EXPECT_EQ(pattern.value().text(), R"(layers\.(1|3)\.mlp)");
}

TEST(Pattern, TheEmptyOneIsFoundInEverything) {
  EXPECT_TRUE(Pattern::Make("").value().FoundIn("x"));
}

TEST(Pattern, RefusesWhatIsNone) {
  for (const char* text : {"(", "[", "a{2,1}", "*", "\xE9", "((((a{100}){100}){100}){100})"}) {
    const Result<Pattern> pattern = Pattern::Make(text);
    ASSERT_FALSE(pattern.ok()) << text;
    EXPECT_EQ(pattern.error().code, ErrorCode::kUsage);
    EXPECT_EQ(pattern.error().found, text);
    EXPECT_FALSE(pattern.error().advice.empty());
  }
}

TEST(Pattern, SaysWhatTheEngineLacks) {
  for (const char* text : {"a(?=b)", "a(?!b)", "(?<=a)b", "(?<!a)b", R"((a)\1)"}) {
    const Result<Pattern> pattern = Pattern::Make(text);
    ASSERT_FALSE(pattern.ok()) << text;
    EXPECT_EQ(pattern.error().code, ErrorCode::kUsage);
    EXPECT_NE(pattern.error().expected.find("no lookaheads and no backreferences"), std::string::npos);
  }
}

// What ECMAScript and RE2 have in common, as patterns over names use it.
TEST(Pattern, KeepsTheMeaningOfEcmaScript) {
  const std::string name = "model.layers.12.mlp.experts.7.up_proj.weight";
  for (const char* found : {R"(^model\.layers\.1\d\.)", R"(\.weight$)", "up_proj|down_proj", "(?:up|gate)_proj",
                            R"(experts\.[0-9]+\.)", R"(layers\.\d{1,2}\.mlp)", R"(\bmlp\b)", ".*?7", R"([^\W\d]+_proj)",
                            R"(experts\.[78]\.)", "[[:alpha:]]+_proj", R"(\x6dodel)", R"(up\_proj)"})
    EXPECT_TRUE(Pattern::Make(found).value().FoundIn(name)) << found;
  for (const char* absent : {"^layers", R"(\.experts$)", R"(layers\.[^1])", R"(\d{3})", "UP_PROJ", "^$"})
    EXPECT_FALSE(Pattern::Make(absent).value().FoundIn(name)) << absent;
}

TEST(Pattern, HasNoDepthAndNoLength) {
  const Result<Pattern> deep = Pattern::Make(std::string(30'000, '(') + std::string(30'000, ')'));
  if (deep.ok()) {
    EXPECT_TRUE(deep.value().FoundIn("a"));
  } else {
    EXPECT_EQ(deep.error().code, ErrorCode::kUsage);
  }
  const Result<Pattern> longer = Pattern::Make(std::string(kMaxPatternBytes + 1, 'a'));
  ASSERT_FALSE(longer.ok());
  EXPECT_NE(longer.error().expected.find("65536"), std::string::npos);
  EXPECT_TRUE(Pattern::Make(std::string(kMaxPatternBytes, 'a')).ok());
  // Where an engine recurses once per character, or tries again at each.
  const std::string name(1'000'000, 'a');
  EXPECT_FALSE(Pattern::Make(".*b$").value().FoundIn(name));
  EXPECT_FALSE(Pattern::Make(".*.*.*.*.*=").value().FoundIn(name));
  EXPECT_FALSE(Pattern::Make("(a*)*b").value().FoundIn(name));
}

}  // namespace
}  // namespace mimo::pattern_test
