// Recipes: what they may say, which rule decides, and what the built-in ones store.
#include "lib/recipe/recipe.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "lib/base/durable_file.h"
#include "lib/model/family.h"
#include "lib/recipe/matcher.h"
#include "lib/recipe/recipe_words.h"
#include "tests/faults/scratch_directory.h"

namespace mimo::recipe_test {
namespace {

using Json = nlohmann::json;

Json Small() {
  return Json::parse(R"({"name": "x", "rules": [{"roles": ["expert.gate"], "to": "nvfp4"}]})");
}

Result<Recipe> Parse(const Json& json) {
  return ParseRecipe(json.dump(), "r.json");
}

TensorId Id(Role role, bool mtp = false) {
  return {role, Part::kWeight, mtp, 1, -1};
}

TEST(Recipe, ReadsEveryKeyAndWritesThemBack) {
  const auto recipe = ParseRecipe(R"({
      "$schema": "x", "name": "all", "summary": "s", "dialect": "compressed-tensors", "qkv": "fused:8",
      "rules": [{"roles": ["expert.gate", "expert.up"], "mtp": false, "names": "layers\\.1\\.", "to": "nvfp4"},
                {"roles": ["attn.o"], "to": "mxfp4", "optional": true},
                {"names": "lm_head", "to": "fp8"}, {"to": "keep"}],
      "engines": [{"name": "e", "status": "refuses", "evidence": "because"}],
      "nvfp4_rule": "sweep", "mx_rule": "floor", "mx_ties": "toward-zero", "fp8_power_of_two": true,
      "fp8_block": [1, 64], "via_bf16": true, "w4a4": true, "input_scale": 0.1, "input_scales": {"b": 2, "a": 0.3}})",
                                  "r.json");
  ASSERT_TRUE(recipe.ok()) << recipe.error().Message();
  const Recipe& r = recipe.value();
  EXPECT_EQ(r.dialect, Dialect::kCompressedTensors);
  EXPECT_EQ(r.qkv, QkvWish("fused:8"));
  ASSERT_EQ(r.rules.size(), 4u);
  EXPECT_EQ(r.rules[0].roles, (std::vector<Role>{Role::kExpertGate, Role::kExpertUp}));
  EXPECT_EQ(r.rules[0].mtp, false);
  EXPECT_EQ(r.rules[0].names, "layers\\.1\\.");
  EXPECT_TRUE(r.rules[1].optional);
  EXPECT_FALSE(r.rules[1].mtp.has_value());
  EXPECT_EQ(r.engines[0].status, "refuses");
  EXPECT_EQ(r.nvfp4_rule, kernels::ScaleRule::kSweep);
  EXPECT_EQ(r.mx_rule, kernels::ScaleRule::kFloor);
  EXPECT_EQ(r.mx_ties, kernels::Ties::kTowardZero);
  EXPECT_TRUE(r.fp8_power_of_two && r.via_bf16 && r.w4a4);
  EXPECT_EQ(r.fp8_block_rows, 1u);
  EXPECT_EQ(r.fp8_block_cols, 64u);
  EXPECT_EQ(r.input_scale, 0.1f);
  EXPECT_EQ(r.input_scales, (std::vector<std::pair<std::string, float>>{{"a", 0.3f}, {"b", 2.0f}}));

  const auto again = ParseRecipe(RecipeJson(r), "again");
  ASSERT_TRUE(again.ok()) << again.error().Message();
  EXPECT_EQ(RecipeJson(again.value()), RecipeJson(r));
  EXPECT_EQ(again.value().input_scale, 0.1f);
  EXPECT_EQ(again.value().rules[0].mtp, false);
  EXPECT_EQ(again.value().fp8_block_cols, 64u);
  EXPECT_EQ(again.value().mx_ties, kernels::Ties::kTowardZero);
}

TEST(Recipe, DefaultsAreThoseOfTheDocuments) {
  const Recipe r = Parse(Small()).value();
  EXPECT_EQ(r.dialect, Dialect::kModelOpt);
  EXPECT_EQ(r.qkv, std::nullopt);
  EXPECT_EQ(r.nvfp4_rule, kernels::ScaleRule::kMax);
  EXPECT_EQ(r.mx_rule, kernels::ScaleRule::kRceil);
  EXPECT_FALSE(r.w4a4);
  EXPECT_EQ(r.input_scale, 1.0f);
  Json keep = Small();
  keep["qkv"] = "keep";
  EXPECT_EQ(Parse(keep).value().qkv, std::nullopt);
}

TEST(Recipe, EverythingElseIsAUsageError) {
  const std::pair<const char*, std::function<void(Json&)>> kCases[] = {
      {"key that no recipe has", [](Json& j) { j["calibration"] = 1; }},
      {"\"name\" is missing", [](Json& j) { j.erase("name"); }},
      {"\"name\"", [](Json& j) { j["name"] = ""; }},
      {"\"name\"", [](Json& j) { j["name"] = 3; }},
      {"dialect", [](Json& j) { j["dialect"] = "gguf"; }},
      {"qkv", [](Json& j) { j["qkv"] = "fused:0"; }},
      {"qkv", [](Json& j) { j["qkv"] = "fused:"; }},
      {"qkv", [](Json& j) { j["qkv"] = "shards"; }},
      {"\"rules\" is missing", [](Json& j) { j.erase("rules"); }},
      {"rules", [](Json& j) { j["rules"] = Json::array(); }},
      {"rules", [](Json& j) { j["rules"] = "all"; }},
      {"a rule is an object", [](Json& j) { j["rules"] = {"all"}; }},
      {"key that no recipe has", [](Json& j) { j["rules"][0]["role"] = "attn.q"; }},
      {"to\" is missing", [](Json& j) { j["rules"][0].erase("to"); }},
      {"int4", [](Json& j) { j["rules"][0]["to"] = "int4"; }},
      {"expert", [](Json& j) { j["rules"][0]["roles"] = {"expert"}; }},
      {"roles", [](Json& j) { j["rules"][0]["roles"] = Json::array(); }},
      {"roles", [](Json& j) { j["rules"][0]["roles"] = {1}; }},
      {"vectors", [](Json& j) { j["rules"][0]["roles"] = {"input_norm"}; }},
      {"vectors", [](Json& j) { j["rules"][0]["roles"] = {"router.bias"}; }},
      {"vectors", [](Json& j) { j["rules"][0]["roles"] = {"attn.sink"}; }},
      {"towers", [](Json& j) { j["rules"][0]["roles"] = {"tower.vision"}; }},
      {"mtp", [](Json& j) { j["rules"][0]["mtp"] = "only"; }},
      {"optional", [](Json& j) { j["rules"][0]["optional"] = 1; }},
      {"names", [](Json& j) { j["rules"][0]["names"] = ""; }},
      {"bad pattern", [](Json& j) { j["rules"][0]["names"] = "(["; }},
      {"engines", [](Json& j) { j["engines"] = Json::object(); }},
      {"an engine is an object", [](Json& j) { j["engines"] = {1}; }},
      {"status",
       [](Json& j) {
         j["engines"] = {{{"name", "v"}, {"status", "works"}, {"evidence", "e"}}};
       }},
      {"evidence",
       [](Json& j) {
         j["engines"] = {{{"name", "v"}, {"status", "loads"}}};
       }},
      {"key that no recipe has",
       [](Json& j) {
         j["engines"] = {{{"name", "v"}, {"tp", 1}}};
       }},
      {"nvfp4_rule", [](Json& j) { j["nvfp4_rule"] = "best"; }},
      {"nvfp4_rule", [](Json& j) { j["nvfp4_rule"] = "rceil"; }},
      {"mx_rule", [](Json& j) { j["mx_rule"] = "max"; }},
      {"mx_ties", [](Json& j) { j["mx_ties"] = "away"; }},
      {"fp8_block",
       [](Json& j) {
         j["fp8_block"] = {128, 100};
       }},
      {"fp8_block",
       [](Json& j) {
         j["fp8_block"] = {0, 128};
       }},
      {"fp8_block", [](Json& j) { j["fp8_block"] = {128}; }},
      {"fp8_block",
       [](Json& j) {
         j["fp8_block"] = {128, -32};
       }},
      {"via_bf16", [](Json& j) { j["via_bf16"] = "yes"; }},
      {"\"input_scale\" without", [](Json& j) { j["input_scale"] = 1; }},
      {"\"input_scales\" without",
       [](Json& j) {
         j["input_scales"] = {{"a", 1}};
       }},
      {"input_scale", [](Json& j) { j["w4a4"] = true, j["input_scale"] = 0; }},
      {"input_scale", [](Json& j) { j["w4a4"] = true, j["input_scale"] = 1e39; }},
      {"input_scale", [](Json& j) { j["w4a4"] = true, j["input_scale"] = 1e-50; }},
      {"input_scales",
       [](Json& j) {
         j["w4a4"] = true, j["input_scales"] = {{"a", -1}};
       }},
      {"input_scales", [](Json& j) { j["w4a4"] = true, j["input_scales"] = {1}; }},
      {"nvfp4_rule", [](Json& j) { j["nvfp4_rule"] = "four-over-six", j["rules"][0]["to"] = "mxfp8"; }},
      {"w4a4", [](Json& j) { j["w4a4"] = true, j["rules"][0]["to"] = "mxfp8"; }},
      {"mx_rule", [](Json& j) { j["mx_rule"] = "floor"; }},
      {"mx_ties", [](Json& j) { j["mx_ties"] = "toward-zero", j["rules"][0]["to"] = "mxfp8"; }},
      {"fp8_power_of_two", [](Json& j) { j["fp8_power_of_two"] = true; }},
      {"fp8_block", [](Json& j) { j["fp8_block"] = {64, 64}; }},
      {"via_bf16", [](Json& j) { j["via_bf16"] = true, j["rules"][0]["to"] = "bf16"; }},
      {"no mxfp4 weights", [](Json& j) { j["rules"][0]["to"] = "mxfp4"; }},
      {"no nvfp4 weights", [](Json& j) { j["dialect"] = "native"; }},
      {"fp8_block", [](Json& j) { j["fp8_block"] = {1, 128}, j["rules"][0]["to"] = "fp8"; }},
  };
  ASSERT_TRUE(Parse(Small()).ok());
  for (const auto& [what, edit] : kCases) {
    Json json = Small();
    edit(json);
    const auto recipe = Parse(json);
    ASSERT_FALSE(recipe.ok()) << json.dump();
    EXPECT_EQ(recipe.error().code, ErrorCode::kUsage) << json.dump();
    EXPECT_EQ(recipe.error().file, "r.json");
    EXPECT_NE(recipe.error().Message().find(what), std::string::npos) << recipe.error().Message();
  }
  for (const char* text : {"", "[]", "{", "null"}) EXPECT_FALSE(ParseRecipe(text, "r.json").ok()) << text;
}

TEST(Recipe, TheFirstRuleThatMatchesDecides) {
  Recipe recipe;
  recipe.rules = {{{Role::kAttnQkv}, true, "", StoredAs::kFp16, false},
                  {{}, false, "layers\\.1\\.self_attn", StoredAs::kBf16, false},
                  {{Role::kAttnQ, Role::kExpertUp}, {}, "", StoredAs::kMxfp8, false}};
  RecipeMatcher matcher(recipe);
  EXPECT_EQ(matcher.Match(Id(Role::kAttnK, true), "model.mtp.layers.1.self_attn.k_proj.weight", false),
            StoredAs::kFp16);
  EXPECT_EQ(matcher.Match(Id(Role::kAttnK), "model.layers.1.self_attn.k_proj.weight", false), StoredAs::kBf16);
  EXPECT_EQ(matcher.Match(Id(Role::kAttnK), "model.layers.11.self_attn.k_proj.weight", false), StoredAs::kMxfp8);
  EXPECT_EQ(matcher.Match(Id(Role::kAttnO), "model.layers.1.self_attn.o_proj.weight", false), StoredAs::kBf16);
  EXPECT_EQ(matcher.Match(Id(Role::kAttnO), "model.layers.2.self_attn.o_proj.weight", false), StoredAs::kKeep);
  EXPECT_EQ(matcher.Match(Id(Role::kExpertGate), "gate", false), StoredAs::kKeep);
  EXPECT_TRUE(matcher.CheckAllMatched().ok());
}

TEST(Recipe, OnlyARuleThatNamesItTouchesARouterAnEmbeddingOrATower) {
  Recipe recipe;
  recipe.rules = {{{}, {}, "", StoredAs::kNvfp4, false}};
  RecipeMatcher any(recipe);
  for (int i = 0; i <= static_cast<int>(Role::kUnknown); ++i) {
    const auto role = static_cast<Role>(i);
    const std::string_view name = RoleName(role);
    const bool vector = name == "attn.sink" || name.ends_with("_bias") || name.ends_with("_norm");
    const bool projection = name == "lm_head" || (name.starts_with("attn.") && !vector) || name.starts_with("mlp.") ||
                            name.starts_with("expert.") || name.starts_with("shared.");
    EXPECT_EQ(any.Match(Id(role), "x", false), projection ? StoredAs::kNvfp4 : StoredAs::kKeep) << name;
  }
  recipe.rules = {{{Role::kRouter, Role::kEmbed, Role::kMtpEhProj, Role::kVision}, {}, "", StoredAs::kBf16, false}};
  RecipeMatcher named(recipe);
  for (Role role : recipe.rules[0].roles) EXPECT_EQ(named.Match(Id(role), "x", false), StoredAs::kBf16);
}

TEST(Recipe, ARuleThatDecidesNothingIsAnError) {
  Recipe recipe;
  recipe.name = "mine";
  recipe.rules = {{{Role::kExpertUp}, {}, "", StoredAs::kNvfp4, false},
                  {{Role::kExpertUp}, {}, "experts", StoredAs::kBf16, false}};  // hidden by the first
  RecipeMatcher matcher(recipe);
  matcher.Match(Id(Role::kExpertUp), "model.layers.1.mlp.experts.0.up_proj.weight", false);
  const Status status = matcher.CheckAllMatched();
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kUsage);
  EXPECT_NE(status.error().Message().find("rule 2 of the recipe mine"), std::string::npos) << status.error().Message();
  recipe.rules[1].optional = true;
  EXPECT_TRUE(matcher.CheckAllMatched().ok());
}

TEST(Recipe, ARuleOfWhatReleasesQuantizeLeavesTheRest) {
  Recipe recipe;
  recipe.rules = {{{Role::kAttnO}, {}, "", StoredAs::kFp8, false, true},
                  {{Role::kAttnO}, {}, "", StoredAs::kBf16, false}};
  RecipeMatcher matcher(recipe);
  EXPECT_EQ(matcher.Match(Id(Role::kAttnO), "x", true), StoredAs::kFp8);
  EXPECT_EQ(matcher.Match(Id(Role::kAttnO), "x", false), StoredAs::kBf16);
  const auto all = FindRecipe(PosixFileSystem(), "fp8-all");
  ASSERT_TRUE(all.ok());
  RecipeMatcher of_all(all.value());
  EXPECT_EQ(of_all.Match(Id(Role::kAttnO), "x", true), StoredAs::kFp8);
  EXPECT_EQ(of_all.Match(Id(Role::kAttnO, true), "x", true), StoredAs::kFp8);
  EXPECT_EQ(of_all.Match(Id(Role::kAttnO), "x", false), StoredAs::kKeep);
}

TEST(Recipe, WhatIsKnownOfEnginesIsOfTheFamily) {
  const auto recipe = ParseRecipe(R"({"name": "x", "rules": [{"to": "fp8"}], "engines": [
      {"name": "a", "status": "loads", "evidence": "one", "models": ["m", "n"]},
      {"name": "a", "status": "unproven", "evidence": "any"},
      {"name": "b", "status": "refuses", "evidence": "all"},
      {"name": "c", "status": "loads", "evidence": "another", "models": ["k"]}]})",
                                  "x");
  ASSERT_TRUE(recipe.ok()) << recipe.error().Message();
  EXPECT_EQ(RecipeJson(ParseRecipe(RecipeJson(recipe.value()), "again").value()), RecipeJson(recipe.value()));
  const auto told = [&](const std::string& family) {
    std::string text;
    for (const RecipeEngine& engine : RecipeOfFamily(recipe.value(), family).engines)
      text += engine.name + ":" + engine.evidence + (engine.models.empty() ? " " : "? ");
    return text;
  };
  EXPECT_EQ(told("m"), "a:one b:all ");
  EXPECT_EQ(told("k"), "a:any b:all c:another ");
  EXPECT_EQ(told("else"), "a:any b:all ");
  const Recipe once = RecipeOfFamily(recipe.value(), "m");
  EXPECT_EQ(RecipeJson(RecipeOfFamily(once, "m")), RecipeJson(once));
}

TEST(Recipe, TheBuiltInOnesSpeakOfEveryEngineToEveryFamilyThatThereIs) {
  const auto families = Family::All();
  ASSERT_TRUE(families.ok());
  for (const std::string& name : RecipeNames()) {
    const Recipe recipe = FindRecipe(PosixFileSystem(), name).value();
    for (const RecipeEngine& engine : recipe.engines)
      for (const std::string& model : engine.models) EXPECT_TRUE(Family::Get(model).ok()) << name << ": " << model;
    for (const Family* family : *families.value()) {
      std::vector<std::string> engines;
      for (const RecipeEngine& engine : RecipeOfFamily(recipe, family->name).engines) {
        engines.push_back(engine.name);
        EXPECT_TRUE(family->name == "mimo_v2" || engine.evidence.find("MiMo") == std::string::npos)
            << name << " of " << family->name << ": " << engine.evidence;
      }
      EXPECT_EQ(engines, (std::vector<std::string>{"vllm", "sglang", "tensorrt-llm"}))
          << name << " of " << family->name;
    }
  }
}

TEST(Recipe, EncodingsCarryTheOptionsOfTheirCodecOnly) {
  Recipe recipe;
  recipe.nvfp4_rule = kernels::ScaleRule::kMse;
  recipe.mx_rule = kernels::ScaleRule::kEven;
  recipe.mx_ties = kernels::Ties::kTowardZero;
  recipe.fp8_power_of_two = true;
  recipe.fp8_block_rows = 1;
  using kernels::Codec;
  kernels::Encoding want;
  want.rule = kernels::ScaleRule::kMse;
  EXPECT_EQ(EncodingOf(recipe, StoredAs::kNvfp4), want);
  want = {};
  want.codec = Codec::kMxfp4, want.rule = kernels::ScaleRule::kEven, want.ties = kernels::Ties::kTowardZero;
  EXPECT_EQ(EncodingOf(recipe, StoredAs::kMxfp4), want);
  want = {};
  want.codec = Codec::kMxfp8, want.rule = kernels::ScaleRule::kEven;
  EXPECT_EQ(EncodingOf(recipe, StoredAs::kMxfp8), want);
  want = {};
  want.codec = Codec::kFp8Block, want.block_rows = 1, want.power_of_two = true;
  EXPECT_EQ(EncodingOf(recipe, StoredAs::kFp8), want);
}

TEST(Recipe, NamesRoundTrip) {
  for (int i = 0; i <= static_cast<int>(kernels::ScaleRule::kCeil); ++i) {
    const auto rule = static_cast<kernels::ScaleRule>(i);
    EXPECT_EQ(FromWord(kScaleRules, WordOf(kScaleRules, rule)), rule);
  }
  for (int i = 0; i <= static_cast<int>(StoredAs::kMxfp8); ++i) {
    const auto stored_as = static_cast<StoredAs>(i);
    EXPECT_EQ(FromWord(kStoredAs, WordOf(kStoredAs, stored_as)), stored_as);
    EXPECT_EQ(CodecOf(stored_as).has_value(), stored_as != StoredAs::kKeep);
  }
  EXPECT_FALSE(FromWord(kStoredAs, "int8").has_value());
}

// Role, in MTP layers or not -> what each built-in recipe makes of it: written down from the issue, not from the files.
struct Expected {
  const char* recipe;
  Dialect dialect;
  const char* qkv;
  StoredAs experts, attention, o_proj, dense, lm_head, mtp_attention, mtp_mlp, mtp_o_proj;
};
constexpr StoredAs K = StoredAs::kKeep, B = StoredAs::kBf16, N = StoredAs::kNvfp4, F = StoredAs::kFp8,
                   M8 = StoredAs::kMxfp8, M4 = StoredAs::kMxfp4;
const Expected kExpected[] = {
    {"bf16-attention", Dialect::kNative, "split", K, B, K, K, K, B, K, K},
    {"fp8-all", Dialect::kNative, "", F, F, K, F, K, F, F, K},
    {"fp8-all+head", Dialect::kNative, "", F, F, F, F, F, F, F, K},
    {"mxfp4-experts", Dialect::kNative, "", M4, K, K, K, K, K, K, K},
    {"mxfp8", Dialect::kModelOpt, "split", M8, M8, B, M8, K, B, B, B},
    {"nvfp4", Dialect::kModelOpt, "split", N, B, B, B, K, B, B, B},
    {"nvfp4+fp8-head", Dialect::kModelOpt, "split", N, B, F, B, F, B, B, B},
    {"nvfp4-experts", Dialect::kModelOpt, "", N, K, K, K, K, K, K, K},
    {"nvfp4-experts+mxfp8-attention", Dialect::kModelOpt, "split", N, M8, B, B, K, B, B, B},
    {"nvfp4-mlp", Dialect::kModelOpt, "split", N, B, B, N, K, B, B, B},
};

TEST(Recipe, TheBuiltInOnesStoreWhatTheySay) {
  std::vector<std::string> names;
  for (const Expected& want : kExpected) {
    names.emplace_back(want.recipe);
    const auto found = FindRecipe(PosixFileSystem(), want.recipe);
    ASSERT_TRUE(found.ok()) << found.error().Message();
    const Recipe& recipe = found.value();
    EXPECT_EQ(recipe.name, want.recipe);
    EXPECT_EQ(recipe.dialect, want.dialect) << want.recipe;
    EXPECT_EQ(recipe.qkv ? recipe.qkv->text : "", want.qkv) << want.recipe;
    EXPECT_FALSE(recipe.summary.empty());
    std::set<std::string> engines;
    for (const RecipeEngine& engine : recipe.engines) engines.insert(engine.name);
    EXPECT_EQ(engines, (std::set<std::string>{"vllm", "sglang", "tensorrt-llm"})) << want.recipe;
    const auto again = ParseRecipe(RecipeJson(recipe), "again");
    ASSERT_TRUE(again.ok()) << again.error().Message();
    EXPECT_EQ(RecipeJson(again.value()), RecipeJson(recipe));

    const std::map<std::pair<Role, bool>, StoredAs> roles = {
        {{Role::kExpertGate, false}, want.experts},
        {{Role::kExpertUp, false}, want.experts},
        {{Role::kExpertDown, false}, want.experts},
        {{Role::kAttnQ, false}, want.attention},
        {{Role::kAttnK, false}, want.attention},
        {{Role::kAttnV, false}, want.attention},
        {{Role::kAttnQkv, false}, want.attention},
        {{Role::kAttnO, false}, want.o_proj},
        {{Role::kMlpGate, false}, want.dense},
        {{Role::kMlpUp, false}, want.dense},
        {{Role::kMlpDown, false}, want.dense},
        {{Role::kLmHead, false}, want.lm_head},
        {{Role::kAttnQkv, true}, want.mtp_attention},
        {{Role::kAttnV, true}, want.mtp_attention},
        {{Role::kMlpGate, true}, want.mtp_mlp},
        {{Role::kMlpUp, true}, want.mtp_mlp},
        {{Role::kMlpDown, true}, want.mtp_mlp},
        {{Role::kAttnO, true}, want.mtp_o_proj},
        // Experts that every token takes go with dense layers.
        {{Role::kSharedGate, false}, want.dense},
        {{Role::kSharedUp, false}, want.dense},
        {{Role::kSharedDown, false}, want.dense},
        {{Role::kSharedGate, true}, want.mtp_mlp},
        {{Role::kSharedUp, true}, want.mtp_mlp},
        {{Role::kSharedDown, true}, want.mtp_mlp},
    };
    RecipeMatcher matcher(recipe);
    for (int i = 0; i <= static_cast<int>(Role::kUnknown); ++i) {
      for (bool mtp : {false, true}) {
        const auto role = static_cast<Role>(i);
        if (mtp && (RoleName(role).starts_with("expert.") || role == Role::kLmHead)) continue;
        const bool attention = role == Role::kAttnQ || role == Role::kAttnK || role == Role::kAttnV;
        const auto it = roles.find({attention && mtp ? Role::kAttnQkv : role, mtp});
        EXPECT_EQ(matcher.Match(Id(role, mtp), "name", false), it == roles.end() ? K : it->second)
            << want.recipe << " " << RoleName(role) << (mtp ? " of MTP" : "");
      }
    }
    EXPECT_TRUE(matcher.CheckAllMatched().ok()) << matcher.CheckAllMatched().error().Message();
  }
  EXPECT_EQ(RecipeNames(), names);
}

TEST(Recipe, AreFoundByNameOrAsAFile) {
  ScratchDirectory scratch;
  const std::string path = JoinPath(scratch.path(), "mine.json");
  ASSERT_TRUE(WriteNewFile(PosixFileSystem(), path, Small().dump()).ok());
  EXPECT_EQ(FindRecipe(PosixFileSystem(), path).value().name, "x");
  const auto unknown = FindRecipe(PosixFileSystem(), "nvfp5");
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.error().code, ErrorCode::kUsage);
  EXPECT_NE(unknown.error().Message().find("nvfp4-experts"), std::string::npos);
  EXPECT_FALSE(FindRecipe(PosixFileSystem(), JoinPath(scratch.path(), "none.json")).ok());
}

}  // namespace
}  // namespace mimo::recipe_test
