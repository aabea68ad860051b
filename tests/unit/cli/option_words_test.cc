// The words of the command line are those of the tables: each is taken and becomes its value, no other is.
#include <gtest/gtest.h>

#include "lib/plan/words.h"
#include "tools/cli.h"
#include "tools/recipe_flags.h"
#include "tools/target_flags.h"

namespace mimo::option_words_test {
namespace {

struct Parsed {
  PlanOptions options;
  TargetFlags target;
  RecipeFlags recipe;
  bool taken = false;
};

Parsed Parse(const std::string& option, const std::string& word) {
  Parsed parsed;
  CLI::App app;
  AddTargetFlags(app, parsed.target, parsed.options);
  AddRecipeFlags(app, parsed.recipe);
  try {
    app.parse(std::vector<std::string>{word, option});  // CLI11 takes them from the back
    parsed.taken = true;
  } catch (const CLI::ParseError&) {
  }
  return parsed;
}

template <class T, size_t N, class Get>
void ExpectWords(const std::string& option, const Words<T, N>& words, const Get& get) {
  for (const auto& [value, word] : words) {
    const Parsed parsed = Parse(option, std::string(word));
    EXPECT_TRUE(parsed.taken) << option << ' ' << word;
    EXPECT_EQ(get(parsed), value) << option << ' ' << word;
  }
  for (const char* other : {"", "?", "none of them"})
    EXPECT_FALSE(Parse(option, other).taken) << option << ' ' << other;
}

TEST(CommandLineWords, AreThoseOfTheTables) {
  ExpectWords("--to", kTargets, [](const Parsed& p) { return p.options.to; });
  ExpectWords("--format", kFormats, [](const Parsed& p) { return p.target.format; });
  ExpectWords("--attention", kAttentionStorages, [](const Parsed& p) { return p.options.attention; });
  ExpectWords("--fold-value-scale", kFoldIntos, [](const Parsed& p) { return p.options.fold_value_scale; });
  ExpectWords("--expert-codes", kExpertCodes, [](const Parsed& p) { return p.options.expert_codes; });
  ExpectWords("--router-bias", kRouterBiases, [](const Parsed& p) { return p.options.router_bias; });
  ExpectWords("--nvfp4-scale", kNvfp4Rules, [](const Parsed& p) { return p.recipe.nvfp4_scale; });
  ExpectWords("--mx-scale", kMxRules, [](const Parsed& p) { return p.recipe.mx_scale; });
  ExpectWords("--mx-ties", kTiesAndAlias, [](const Parsed& p) { return p.recipe.mx_ties; });
  ExpectWords("--fp8-scale", kFp8Scales, [](const Parsed& p) { return p.recipe.fp8_power_of_two; });
  ExpectWords("--dialect", kDialects, [](const Parsed& p) { return p.recipe.dialect; });
}

TEST(CommandLineWords, HelpShowsThemAndTheDefault) {
  TargetFlags target;
  PlanOptions options;
  CLI::App app;
  AddTargetFlags(app, target, options);
  const std::string help = app.help();
  const auto says = [&](const std::string& text) { return help.find(text) != std::string::npos; };
  for (const auto& [words, usual] :
       {std::pair("TEXT:{hf,vllm,sglang,nxdi,megatron}", "hf"), std::pair("TEXT:{hf,sharded-state,torch_dist}", "hf"),
        std::pair("TEXT:{auto,fused,split,bf16}", "auto")})  // CLI11 2.1 and 2.5 differ
    EXPECT_TRUE(says(std::string(words) + "=" + usual) || says(std::string(words) + " [" + usual + "]")) << help;
  EXPECT_TRUE(says("TEXT:{v,o}") && says("v|o: multiply")) << help;
}

}  // namespace
}  // namespace mimo::option_words_test
