// Tables of rank files: what a malformed one is told, and the names of engines both ways, with a template and without.
#include "lib/forms/ranks/rank_form.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "lib/model/role_groups.h"
#include "tests/unit/layout/rank_contents.h"

namespace mimo::rank_form_test {
namespace {

using Json = nlohmann::ordered_json;

// One table with every feature: an alias of each kind, an array per cut, a constant with a condition.
Json Table() {
  const auto tensor = [](const char* name, Json of, const char* part, const char* cut, bool mtp = false) {
    const std::string kind(cut);
    return Json{{"name", name},
                {"of", std::move(of)},
                {"part", part},
                {"cut", cut},
                {"stack", kind.starts_with("expert") ? "experts" : ""},
                {"mtp", mtp}};
  };
  Json table = {{"form", "toy-1"}, {"vocab_multiple", 64}};
  table["tensors"] = {
      tensor("embed.weight", {"embed"}, "weight", "vocab"),
      tensor("layers.{layer}.qkv.weight", {"attn.q", "attn.k", "attn.v"}, "weight", "heads"),
      tensor("layers.{layer}.gate_up.weight", {"mlp.gate", "mlp.up"}, "weight", "rows"),
      tensor("layers.{layer}.gate_up.weight_scale_inv", {"mlp.gate", "mlp.up"}, "weight_scale_inv", "rows"),
      tensor("layers.{layer}.experts.routed.w13", {"expert.gate", "expert.up"}, "weight", "expert_rows"),
      tensor("layers.{layer}.experts.routed.bias", {"router.bias"}, "weight", "replicated"),
      tensor("mtp.{layer}.gate_up.weight", {"mlp.gate", "mlp.up"}, "weight", "rows", true)};
  table["tensors"][5]["dtype"] = "F32";
  table["constants"] = {{{"name", "layers.{layer}.one"},
                         {"dtype", "F32"},
                         {"shape", Json::array()},
                         {"value", 1.0},
                         {"when", {"quant_method = fp8"}},
                         {"mtp", false}}};
  table["aliases"] = {{"prefixes", {"language_model."}},
                      {"infixes", {{{"with", "experts.routed."}, {"without", "experts."}}}},
                      {"renamed", {{{"name", "experts.routed.bias"}, {"other", "gate.bias"}}}}};
  return table;
}

RankForm Form() {
  Result<RankForm> form = ParseRankForm(Table().dump());
  EXPECT_TRUE(form.ok()) << form.error().Message();
  return std::move(form).value();
}

// Names, without asking what else may be in the table.
std::string Identified(const RankForm& form, const std::string& name) {
  const auto match = form.Identify(name);
  if (!match) return "nothing";
  return form.tensors()[match->tensor].pattern + " " + std::to_string(match->layer);
}

TEST(RankForm, ReadsEveryField) {
  const RankForm form = Form();
  EXPECT_EQ(form.name(), "toy-1");
  EXPECT_EQ(form.vocab_multiple(), 64);
  ASSERT_EQ(form.tensors().size(), 7u);
  EXPECT_EQ(form.tensors()[1].of, (std::vector<Role>{Role::kAttnQ, Role::kAttnK, Role::kAttnV}));
  EXPECT_EQ(form.tensors()[1].cut, Cut::kHeads);
  EXPECT_EQ(form.tensors()[3].part, Part::kScaleInv);
  EXPECT_TRUE(form.tensors()[4].experts);
  EXPECT_FALSE(form.tensors()[1].experts);
  EXPECT_EQ(form.tensors()[5].dtype, "F32");
  EXPECT_TRUE(form.tensors()[6].mtp);
  ASSERT_EQ(form.constants().size(), 1u);
  EXPECT_EQ(form.constants()[0].value, 1.0);
  EXPECT_EQ(form.constants()[0].when, std::vector<std::string>{"quant_method = fp8"});
}

TEST(RankForm, MalformedTablesAreErrorsThatSayWhere) {
  const auto refused = [](const Json& table, const std::string& found) {
    const auto form = ParseRankForm(table.dump());
    ASSERT_FALSE(form.ok()) << found;
    EXPECT_EQ(form.error().code, ErrorCode::kBadInput);
    EXPECT_NE(form.error().Message().find(found), std::string::npos) << form.error().Message();
  };
  for (const char* key : {"form", "vocab_multiple", "tensors", "constants", "aliases"}) {
    Json table = Table();
    table.erase(key);
    refused(table, key);
  }
  for (const char* key : {"name", "of", "part", "cut", "stack", "mtp"}) {
    Json table = Table();
    table["tensors"][2].erase(key);
    refused(table, key);
  }
  for (const char* key : {"name", "dtype", "shape", "value", "when", "mtp"}) {
    Json table = Table();
    table["constants"][0].erase(key);
    refused(table, key);
  }
  const auto changed = [](const char* list, const char* key, Json value) {
    Json table = Table();
    table[list][0][key] = std::move(value);
    return table;
  };
  refused(changed("tensors", "of", {"attn.z"}), "attn.z");
  refused(changed("tensors", "of", Json::array()), "embed.weight");
  refused(changed("tensors", "cut", "diagonal"), "embed.weight");
  refused(changed("tensors", "part", "bias"), "embed.weight");
  refused(changed("tensors", "mtp", "no"), "toy-1");
  refused(changed("constants", "dtype", "F8_E4M3"), "layers.{layer}.one");
  refused(changed("constants", "dtype", "float"), "layers.{layer}.one");
  refused(changed("constants", "shape", {"x"}), "toy-1");
  for (const char* text : {"", "[]", "{", "3", "{\"form\": 1}"}) EXPECT_FALSE(ParseRankForm(text).ok()) << text;
}

TEST(RankForm, FindsByRolePartAndKindOfLayer) {
  const RankForm form = Form();
  EXPECT_EQ(form.Find(Role::kMlpUp, Part::kWeight, false), 2u);
  EXPECT_EQ(form.Find(Role::kMlpUp, Part::kWeight, true), 6u);
  EXPECT_EQ(form.Find(Role::kMlpGate, Part::kScaleInv, false), 3u);
  EXPECT_EQ(form.Find(Role::kMlpGate, Part::kScaleInv, true), std::nullopt);
  EXPECT_EQ(form.Find(Role::kAttnQkv, Part::kWeight, false), 1u);  // a fused QKV is looked up as Q
  EXPECT_EQ(form.Find(Role::kAttnK, Part::kWeight, false), 1u);
  EXPECT_EQ(form.Find(Role::kExpertUp, Part::kPacked, false), 4u);  // packed codes are its elements
  EXPECT_EQ(form.Find(Role::kMlpDown, Part::kWeight, false), std::nullopt);
}

TEST(RankForm, NamesAndLayersAreReadBackUnderEveryAlias) {
  const RankForm form = Form();
  EXPECT_EQ(NameInLayer("layers.{layer}.qkv.weight", 17), "layers.17.qkv.weight");
  EXPECT_EQ(NameInLayer("embed.weight", 3), "embed.weight");
  EXPECT_EQ(Identified(form, "layers.17.qkv.weight"), "layers.{layer}.qkv.weight 17");
  EXPECT_EQ(Identified(form, "embed.weight"), "embed.weight -1");
  EXPECT_EQ(Identified(form, "language_model.layers.0.qkv.weight"), "layers.{layer}.qkv.weight 0");
  // Without the infix, with the prefix, with both; the router bias under its old name.
  for (const char* prefix : {"", "language_model."}) {
    const std::string p(prefix);
    EXPECT_EQ(Identified(form, p + "layers.2.experts.routed.w13"), "layers.{layer}.experts.routed.w13 2");
    EXPECT_EQ(Identified(form, p + "layers.2.experts.w13"), "layers.{layer}.experts.routed.w13 2");
    EXPECT_EQ(Identified(form, p + "layers.3.experts.routed.bias"), "layers.{layer}.experts.routed.bias 3");
    EXPECT_EQ(Identified(form, p + "layers.3.experts.bias"), "layers.{layer}.experts.routed.bias 3");
    EXPECT_EQ(Identified(form, p + "layers.3.gate.bias"), "layers.{layer}.experts.routed.bias 3");
    EXPECT_TRUE(form.IsConstant(p + "layers.5.one"));
    EXPECT_FALSE(form.IsConstant(p + "layers.5.two"));
    EXPECT_FALSE(form.IsConstant(p + "layers..one"));
  }
  for (const char* name : {"layers.x.qkv.weight", "layers.-1.qkv.weight", "layers.1.2.qkv.weight", "layers..qkv.weight",
                           "layers.99999999999.qkv.weight", "layers.1.qkv.weigh", "xlayers.1.qkv.weight", "",
                           "language_model.language_model.embed.weight", "layers.1.qkv.weight "})
    EXPECT_EQ(Identified(form, name), "nothing") << name;
}

// The template of an engine's build, canonical as --template keeps it.
RankForm Templated(const std::vector<std::pair<std::string, std::vector<int64_t>>>& rows) {
  Json dump = {{"engine", "vllm"}, {"version", "0.34.1"}, {"tensors", Json::array()}};
  for (const auto& [name, shape] : rows)
    dump["tensors"].push_back({{"name", name}, {"dtype", "torch.bfloat16"}, {"shape", shape}});
  const auto canonical = CanonicalTemplate(dump.dump(), "t.json");
  EXPECT_TRUE(canonical.ok()) << canonical.error().Message();
  auto form = RankForm::Load("vllm", "mimo_v2", canonical.value());
  EXPECT_TRUE(form.ok()) << form.error().Message();
  return std::move(form).value();
}

constexpr char kW13[] = "model.layers.1.mlp.experts.routed_experts.w13_weight";
constexpr char kBias[] = "model.layers.1.mlp.experts.routed_experts.e_score_correction_bias";

TEST(RankFormTemplate, WithoutOneNamesAreThoseOfTheTable) {
  const auto form = RankForm::Load("vllm", "mimo_v2", "");
  ASSERT_TRUE(form.ok()) << form.error().Message();
  EXPECT_EQ(form.value().name(), "vllm-0.33");
  EXPECT_EQ(form.value().vocab_multiple(), 64);
  EXPECT_EQ(form.value().NameOf(kW13, DType::kBF16, {1, 2, 3}).value(), kW13);
  EXPECT_TRUE(form.value().Unfilled({}).empty());
  EXPECT_FALSE(RankForm::Load("sglang", "mimo_v2", "").ok());
}

TEST(RankFormTemplate, ArraysTakeTheNameThatTheBuildHasForThem) {
  const std::vector<int64_t> shape = {4, 256, 128};
  for (const char* name : {kW13, "model.layers.1.mlp.experts.w13_weight",
                           "language_model.model.layers.1.mlp.experts.routed_experts.w13_weight",
                           "language_model.model.layers.1.mlp.experts.w13_weight"}) {
    const RankForm form = Templated({{name, shape}});
    EXPECT_EQ(form.name(), "vllm-0.34.1");
    const auto made = form.NameOf(kW13, DType::kBF16, shape);
    ASSERT_TRUE(made.ok()) << made.error().Message();
    EXPECT_EQ(made.value(), name);
    // What was written under it is read back with the table alone.
    EXPECT_EQ(Identified(RankForm::Load("vllm", "mimo_v2", "").value(), name),
              "model.layers.{layer}.mlp.experts.routed_experts.w13_weight 1");
  }
  for (const char* name :
       {kBias, "model.layers.1.mlp.gate.e_score_correction_bias", "model.layers.1.mlp.experts.e_score_correction_bias",
        "language_model.model.layers.1.mlp.gate.e_score_correction_bias"}) {
    EXPECT_EQ(Templated({{name, {4}}}).NameOf(kBias, DType::kBF16, {4}).value(), name);
    EXPECT_EQ(Identified(RankForm::Load("vllm", "mimo_v2", "").value(), name),
              "model.layers.{layer}.mlp.experts.routed_experts.e_score_correction_bias 1");
  }
}

TEST(RankFormTemplate, AnotherShapeAndAMissingNameAreToldApart) {
  const RankForm form = Templated({{"model.layers.1.mlp.experts.w13_weight", {4, 256, 128}}});
  const auto shape = form.NameOf(kW13, DType::kBF16, {4, 128, 128});
  ASSERT_FALSE(shape.ok());
  EXPECT_EQ(shape.error().code, ErrorCode::kUsage);
  EXPECT_EQ(shape.error().tensor, kW13);
  EXPECT_NE(shape.error().expected.find("[4,256,128]"), std::string::npos) << shape.error().Message();
  EXPECT_NE(shape.error().found.find("[4,128,128]"), std::string::npos);
  const auto name = form.NameOf("model.layers.2.mlp.experts.routed_experts.w13_weight", DType::kBF16, {4, 256, 128});
  ASSERT_FALSE(name.ok());
  EXPECT_EQ(name.error().code, ErrorCode::kUsage);
  EXPECT_NE(name.error().what, shape.error().what);
  EXPECT_FALSE(name.error().advice.empty());
}

TEST(RankFormTemplate, AnotherTypeIsAnErrorThatNamesBoth) {
  const RankForm form = Templated({{"model.layers.1.mlp.experts.w13_weight", {4, 256, 128}}});
  const auto made = form.NameOf(kW13, DType::kF8E4M3, {4, 256, 128});
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code, ErrorCode::kUsage);
  EXPECT_EQ(made.error().tensor, kW13);
  EXPECT_EQ(made.error().expected, "BF16");
  EXPECT_TRUE(made.error().found.starts_with("F8_E4M3")) << made.error().found;
  EXPECT_TRUE(form.Has(kW13));
  EXPECT_FALSE(form.Has(kBias));
  EXPECT_TRUE(RankForm::Load("vllm", "mimo_v2", "").value().Has(kBias));
}

TEST(RankFormTemplate, WhatNothingFillsIsListedInItsOrder) {
  const RankForm form = Templated({{"z", {1}}, {"b", {1}}, {"a", {1}}, {"c", {1}}});
  EXPECT_EQ(form.Unfilled({"c", "b"}), (std::vector<std::string>{"z", "a"}));
  EXPECT_TRUE(form.Unfilled({"a", "b", "c", "z", "more"}).empty());
}

TEST(RankFormTemplate, WhatIsNoDumpIsRefused) {
  const auto refused = [](const std::string& text) {
    const auto canonical = CanonicalTemplate(text, "t.json");
    ASSERT_FALSE(canonical.ok()) << text;
    EXPECT_EQ(canonical.error().code, ErrorCode::kBadInput);
    EXPECT_EQ(canonical.error().file, "t.json");
  };
  for (const char* text : {"", "[]", "{}", R"({"tensors": []})", R"({"tensors": {}})", R"({"tensors": ["a"]})",
                           R"({"tensors": [{"name": "a", "dtype": "BF16"}]})",
                           R"({"tensors": [{"name": 3, "dtype": "BF16", "shape": []}]})",
                           R"({"tensors": [{"name": "a", "dtype": "complex", "shape": []}]})",
                           R"({"tensors": [{"name": "a", "dtype": "BF16", "shape": [-1]}]})",
                           R"({"tensors": [{"name": "a", "dtype": "BF16", "shape": [1.5]}]})",
                           R"({"tensors": [{"name": "a", "dtype": "BF16", "shape": [4294967296]}]})",
                           R"({"tensors": [{"name": "a", "dtype": "BF16", "shape": 1}]})"})
    refused(text);
  // Types under the names of either world are one template; what does not matter is left out.
  const auto torch = CanonicalTemplate(
      R"({"note": 1, "tensors": [{"name": "a", "dtype": "torch.float8_e4m3fn", "shape": [2], "device": "meta"}]})", "");
  const auto ours = CanonicalTemplate(R"({"tensors": [{"shape": [2], "name": "a", "dtype": "F8_E4M3"}]})", "");
  ASSERT_TRUE(torch.ok() && ours.ok());
  EXPECT_EQ(torch.value(), ours.value());
  EXPECT_EQ(CanonicalTemplate(torch.value(), "").value(), torch.value());
}

// The shipped table speaks of every tensor that the model table has, once, but for towers and the split projections
// that it holds fused.
TEST(RankFormTable, HasAPlaceForEveryTensorOfTheModel) {
  const RankForm form = RankForm::Load("vllm", "mimo_v2", "").value();
  for (const TensorRule& rule : ModelTable::Get("mimo_v2").value()->rules()) {
    size_t places = 0;
    for (const RankTensor& t : form.tensors())
      for (const Role role : t.of)
        places += t.part == Part::kWeight && t.mtp == rule.mtp &&
                  (role == rule.role || (rule.role == Role::kAttnQkv && role == Role::kAttnQ));
    EXPECT_EQ(places, 1u) << rule.pattern << (rule.mtp ? " mtp" : "");
  }
  for (const RankTensor& t : form.tensors()) {
    if (t.cut == Cut::kScalars) {  // global and input scales: of whole matrices, cut with their experts alone
      EXPECT_TRUE(t.part == Part::kScale2 || t.part == Part::kInputScale) << t.pattern;
      EXPECT_EQ(t.experts, IsExpert(t.of[0])) << t.pattern;
      continue;
    }
    const bool by_expert = t.cut == Cut::kExpertRows || t.cut == Cut::kExpertColumns;
    EXPECT_EQ(t.experts, by_expert) << t.pattern;
    for (const Role role : t.of) {
      const Cut cut = CutOf(role, false);
      EXPECT_EQ(t.cut, cut) << t.pattern;
    }
  }
}

}  // namespace
}  // namespace mimo::rank_form_test
