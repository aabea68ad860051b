// Names under a prefix: what is given the released names, and what is left as it is.
#include "lib/model/name_prefix.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "lib/json/parse.h"
#include "schemas/embedded.h"

namespace mimo::name_prefix_test {
namespace {

using WeightMap = std::vector<std::pair<std::string, std::string>>;

class NamePrefixTest : public ::testing::Test {
 protected:
  void SetUp() override {
    catalogue_.table = ModelTable::Get("mimo_v2").value();
    catalogue_.config.text = "{}";
    catalogue_.files.emplace_back().name = "model.safetensors";
  }
  void Add(const std::string& name, std::vector<int64_t> shape = {4, 4}) {
    StoredArray array;
    array.name = name;
    array.shape = std::move(shape);
    array.id = catalogue_.table->Identify(name);
    catalogue_.arrays.push_back(array);
  }
  std::vector<std::string> Names() {
    EXPECT_TRUE(ReleaseNames(&catalogue_, &map_).ok());
    std::vector<std::string> names;
    for (const StoredArray& array : catalogue_.arrays) names.push_back(array.name);
    return names;
  }
  Catalogue catalogue_;
  WeightMap map_;
};

TEST_F(NamePrefixTest, OneInFront) {
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight", "model.layers.0.mlp.gate.weight"})
    Add(std::string("language_model.") + name);
  map_ = {{"language_model.lm_head.weight", "model.safetensors"}};
  EXPECT_EQ(Names(), (std::vector<std::string>{"model.embed_tokens.weight", "lm_head.weight",
                                               "model.layers.0.mlp.gate.weight"}));
  EXPECT_EQ(map_[0].first, "lm_head.weight");
  EXPECT_EQ(catalogue_.name_prefix, "language_model.");
  EXPECT_TRUE(catalogue_.files[0].renamed);
  EXPECT_EQ(catalogue_.arrays[2].id.role, Role::kRouter);
  EXPECT_EQ(catalogue_.oddities.size(), 1u);
}

TEST_F(NamePrefixTest, SeveralAndInsideOfModel) {
  Add("module._orig_mod.model.language_model.layers.1.input_layernorm.weight", {4});
  Add("module._orig_mod.lm_head.weight");
  Add("module._orig_mod.model.language_model.layers.1.self_attn.k_scale", {1});
  EXPECT_EQ(Names()[0], "model.layers.1.input_layernorm.weight");
  EXPECT_EQ(catalogue_.arrays[1].name, "lm_head.weight");
}

TEST_F(NamePrefixTest, WhatNoTableKnowsFollows) {
  for (int i = 0; i < 20; ++i) Add("language_model.model.layers." + std::to_string(i) + ".input_layernorm.weight", {4});
  Add("language_model.model.layers.0.self_attn.k_scale", {1});
  EXPECT_EQ(Names().back(), "model.layers.0.self_attn.k_scale");
}

TEST_F(NamePrefixTest, TowersBeside) {
  Add("model.language_model.layers.0.input_layernorm.weight", {4});
  Add("model.visual.patch_embed.proj.weight", {8, 3, 2, 16, 16});
  EXPECT_EQ(Names()[1], "visual.patch_embed.proj.weight");
}

TEST_F(NamePrefixTest, TransposedTowersKeepTheirNames) {
  Add("language_model.model.layers.0.input_layernorm.weight", {4});
  Add("vision_tower.patch_embed.proj.weight", {8, 2, 16, 16, 3});
  Add("vision_tower.blocks.0.norm1.weight", {4});
  EXPECT_EQ(Names()[1], "vision_tower.patch_embed.proj.weight");
  EXPECT_EQ(catalogue_.arrays[2].name, "vision_tower.blocks.0.norm1.weight");
}

TEST_F(NamePrefixTest, ReleasedNamesStay) {
  Add("model.layers.0.input_layernorm.weight", {4});
  for (int i = 0; i < 20; ++i) Add("language_model.model.layers." + std::to_string(i) + ".mlp.gate.weight");
  EXPECT_EQ(Names()[1], "language_model.model.layers.0.mlp.gate.weight");
  EXPECT_TRUE(catalogue_.name_prefix.empty());
}

TEST_F(NamePrefixTest, AFewOfManyExplainNothing) {
  Add("language_model.model.layers.0.input_layernorm.weight", {4});
  Add("thinker.model.layers.0.input_layernorm.weight", {4});
  EXPECT_EQ(Names()[0], "language_model.model.layers.0.input_layernorm.weight");
}

TEST_F(NamePrefixTest, ModulesOfTheConfigFollow) {
  Add("language_model.model.layers.0.self_attn.o_proj.weight");
  catalogue_.config.text = R"({"a": 1, "quantization_config": {"ignored_layers": ["language_model.lm_head",
      "language_model.model.layers.0.self_attn.o_proj", "re:^language_model\\.model\\.layers.*gate$", "lm_head"]}})";
  Names();
  EXPECT_EQ(catalogue_.config.text.find("language_model"), std::string::npos) << catalogue_.config.text;
  EXPECT_NE(catalogue_.config.text.find("re:^model\\\\.layers.*gate$"), std::string::npos) << catalogue_.config.text;
}

// Rows of the table, as they are used: a name as it is stored, and that of the release. Beside the stored one is a
// layer under the first prefix, where the row alone would not say that there are prefixes.
struct Row {
  const char *from, *to, *stored, *released;
};
constexpr Row kPrefixes[] = {
    {"model.language_model.", "model.", "model.language_model.layers.1.mlp.gate.weight",
     "model.layers.1.mlp.gate.weight"},
    {"language_model.", "", "language_model.model.layers.1.mlp.gate.weight", "model.layers.1.mlp.gate.weight"},
    {"base_model.model.", "", "base_model.model.model.layers.1.mlp.gate.weight", "model.layers.1.mlp.gate.weight"},
    {"_orig_mod.", "", "_orig_mod.model.layers.1.mlp.gate.weight", "model.layers.1.mlp.gate.weight"},
    {"module.", "", "module.model.layers.1.mlp.gate.weight", "model.layers.1.mlp.gate.weight"},
    {"transformer.", "", "transformer.model.layers.1.mlp.gate.weight", "model.layers.1.mlp.gate.weight"},
    {"text_model.", "", "text_model.model.layers.1.mlp.gate.weight", "model.layers.1.mlp.gate.weight"},
    {"model.text_model.", "model.", "model.text_model.layers.1.mlp.gate.weight", "model.layers.1.mlp.gate.weight"},
    {"model.model.", "model.", "model.model.layers.1.mlp.gate.weight", "model.layers.1.mlp.gate.weight"},
};
constexpr Row kRenamed[] = {
    {"vision_tower.", "visual.", "vision_tower.blocks.0.norm1.weight", "visual.blocks.0.norm1.weight"},
    {"model.visual.", "visual.", "model.visual.blocks.0.norm1.weight", "visual.blocks.0.norm1.weight"},
    {"model.vision_tower.", "visual.", "model.vision_tower.blocks.0.norm1.weight", "visual.blocks.0.norm1.weight"},
    {"model.audio_encoder.", "audio_encoder.", "model.audio_encoder.projection.0.weight",
     "audio_encoder.projection.0.weight"},
    {"model.speech_embeddings.", "speech_embeddings.", "model.speech_embeddings.0.weight",
     "speech_embeddings.0.weight"},
    {"model.lm_head.", "lm_head.", "model.lm_head.weight", "lm_head.weight"},
};

TEST_F(NamePrefixTest, EveryPrefixOfTheTable) {
  for (const Row& row : kPrefixes) {
    SetUp();
    catalogue_.arrays.clear();
    Add(row.stored);
    EXPECT_EQ(Names(), std::vector<std::string>{row.released}) << row.from;
  }
}

TEST_F(NamePrefixTest, EveryNameBesideThem) {
  for (const Row& row : kRenamed) {
    SetUp();
    catalogue_.arrays.clear();
    Add("model.language_model.layers.0.input_layernorm.weight", {4});
    Add(row.stored);
    EXPECT_EQ(Names().back(), row.released) << row.from;
  }
}

// A row that no test names could be lost without a word.
TEST(NamePrefixes, AreThoseOfThisTest) {
  const EmbeddedFile* file = kEmbeddedFiles;
  while (file->path != nullptr && std::string_view(file->path) != "foreign.json") ++file;
  ASSERT_NE(file->path, nullptr);
  const auto table = ParseJson<nlohmann::json>(file->content, "foreign.json");
  ASSERT_TRUE(table.ok());
  const auto rows = [](const auto& named) {
    nlohmann::json list = nlohmann::json::array();
    for (const Row& row : named) list.push_back({{"from", row.from}, {"to", row.to}});
    return list;
  };
  EXPECT_EQ(table.value().at("prefixes"), rows(kPrefixes));
  EXPECT_EQ(table.value().at("renamed"), rows(kRenamed));
}

TEST(IsReadUnderPrefix, KnowsWhatIsRead) {
  const ModelTable& table = *ModelTable::Get("mimo_v2").value();
  EXPECT_TRUE(IsReadUnderPrefix(table, "lm_head.weight"));
  EXPECT_TRUE(IsReadUnderPrefix(table, "base_model.model.lm_head.weight"));
  EXPECT_FALSE(IsReadUnderPrefix(table, "thinker.lm_head.weight"));
}

}  // namespace
}  // namespace mimo::name_prefix_test
