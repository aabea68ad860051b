// Descriptions of families: every embedded one is whole, and config.json finds its own.
#include "lib/model/family.h"

#include <gtest/gtest.h>

#include <set>

#include "lib/model/config.h"
#include "schemas/embedded.h"

namespace mimo::family_test {
namespace {

const std::vector<const Family*>& All() {
  return *Family::All().value();
}

bool Has(const Family& family, Role role) {
  for (const TensorRule& rule : family.table.rules())
    if (rule.role == role) return true;
  return false;
}

Result<const Family*> Of(const std::string& model_type, const std::vector<std::string>& architectures,
                         const std::set<std::string>& keys = {}) {
  return Family::Of(model_type, architectures, [&](const std::string& key) { return keys.contains(key); });
}

TEST(Families, EveryDescriptionParses) {
  const auto all = Family::All();
  ASSERT_TRUE(all.ok()) << all.error().Message();
  size_t files = 0;
  for (const EmbeddedFile* file = kEmbeddedFiles; file->path != nullptr; ++file)
    files += std::string_view(file->path).starts_with("models/");
  EXPECT_EQ(All().size(), files);
  std::set<std::string> names, types;
  for (const Family* family : All()) {
    EXPECT_TRUE(names.insert(family->name).second) << family->name;
    EXPECT_FALSE(family->proven.empty() || family->title.empty() || family->generic.empty()) << family->name;
    for (const std::string& type : family->model_types) EXPECT_TRUE(types.insert(type).second) << type;
  }
}

// Whatever layout a family offers, its tensors have names in it.
TEST(Families, EveryLayoutThatIsOfferedCanBeNamed) {
  for (const Family* family : All()) {
    for (const Role role : {Role::kAttnQ, Role::kAttnK, Role::kAttnV, Role::kAttnO})
      EXPECT_TRUE(Has(*family, role)) << family->name;
    EXPECT_TRUE(Has(*family, Role::kAttnQkv)) << family->name << ": ranks have it under a name of their own";
  }
}

TEST(Families, ConfigsFindTheirOwn) {
  for (const Family* family : All()) {
    for (std::string type : family->model_types) {
      if (type.ends_with('*')) type.back() = 'x';
      EXPECT_EQ(Of(type, {}).value(), family) << type;
    }
    for (std::string architecture : family->architectures) {
      if (architecture.ends_with('*')) architecture.back() = 'X';
      EXPECT_EQ(Of("mine", {"Other", architecture}).value(), family) << architecture;
    }
    if (family->known_by.empty()) continue;
    EXPECT_EQ(Of("mine", {}, {family->known_by.begin(), family->known_by.end()}).value(), family);
  }
  EXPECT_EQ(Of("ernie", {"ErnieForCausalLM"}).value(), nullptr);
}

TEST(Families, UnknownOnesAreRefusedByWhatTheyLookLike) {
  const auto config = ParseModelConfig(R"({"model_type": "maximin", "hidden_size": 64, "num_hidden_layers": 1,
    "vocab_size": 10, "intermediate_size": 32, "num_local_experts": 2, "num_experts_per_tok": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "tie_word_embeddings": false})",
                                       "config.json");
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(config.error().id, "model.unknown_family");
  EXPECT_NE(config.error().found.find("maximin"), std::string::npos);
  EXPECT_NE(config.error().found.find("MiniMax"), std::string::npos) << config.error().found;
  for (const Family* family : All())
    EXPECT_NE(config.error().expected.find(family->title), std::string::npos) << config.error().expected;
}

// Layers of a kind, as each pattern says it.
TEST(Families, PatternsOfLayers) {
  const auto layers = [](const std::string& pattern, const std::string& keys) {
    const std::string family = R"({"family": "f", "title": "F", "proven": "", "generic": "f", "model_types": [],
      "architectures": [], "fused_attention": false, "tensors": [],
      "mtp": {"released_layers": 0, "conventions": [{"id": "a", "name": "a", "prefix": "a."}]},
      "config": {"hidden": {"keys": ["h"]}, "layers": {"keys": ["l"]}, "vocab": {"keys": ["v"]},
                 "heads": {"keys": ["a"]}},
      "layers": {"moe": )" + pattern +
                               "}}";
    Result<Family> parsed = ParseFamily(family);
    EXPECT_TRUE(parsed.ok()) << parsed.error().Message();
    return parsed.ok() ? parsed.value().moe.key + "|" + keys : "";
  };
  EXPECT_EQ(layers(R"({"behind": "first"})", ""), "first|");
  EXPECT_EQ(layers(R"({"every": "step", "except": "dense"})", ""), "step|");
  EXPECT_EQ(layers(R"({"words": "types", "word": "moe"})", ""), "types|");
  EXPECT_FALSE(ParseFamily("{}").ok());
  EXPECT_FALSE(ParseFamily("[]").ok());
}

}  // namespace
}  // namespace mimo::family_test
