#include "lib/base/pattern.h"

#include <gtest/gtest.h>

namespace mimo {
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
  for (const char* text : {"(", "[", "a{2", "*"}) {
    const Result<Pattern> pattern = Pattern::Make(text);
    ASSERT_FALSE(pattern.ok()) << text;
    EXPECT_EQ(pattern.error().code, ErrorCode::kUsage);
    EXPECT_EQ(pattern.error().found, text);
    EXPECT_FALSE(pattern.error().advice.empty());
  }
}

}  // namespace
}  // namespace mimo
