// Each kind of disagreement between config.json and the arrays, on a made checkpoint that has none to begin with.
#include "lib/judge/declared.h"

#include <gtest/gtest.h>

#include <functional>

#include "lib/model/declaration.h"
#include "tests/unit/planner/made_checkpoint.h"

namespace mimo::declared_test {
namespace {

using nlohmann::json;

class Declared : public testing::Test {
 protected:
  Declared() : model_(made::Quarter()) { Remake(); }

  void Remake() {
    catalogue_ = made::Make(model_);
    Edit([](json& config) {
      json& list = config["quantization_config"]["ignored_layers"];
      list = {"model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj"};
      config["num_nextn_predict_layers"] = 1;
    });
  }
  void Edit(const std::function<void(json&)>& edit) {
    json config = json::parse(catalogue_.config.text);
    edit(config);
    auto parsed = ParseModelConfig(config.dump(), "/checkpoint/config.json");
    ASSERT_TRUE(parsed.ok()) << parsed.error().Message();
    catalogue_.config = std::move(parsed).value();
  }
  // A weight that lost its scales and became values.
  void Decode(const std::string& name) {
    std::erase_if(catalogue_.arrays, [&](const StoredArray& a) { return a.name == name + "_scale_inv"; });
    for (StoredArray& array : catalogue_.arrays)
      if (array.name == name) array.dtype = DType::kBF16;
    made::SortArrays(&catalogue_);
  }
  void DecodeAll() {
    std::vector<std::string> names;
    for (const StoredArray& a : catalogue_.arrays)
      if (a.dtype == DType::kF8E4M3) names.push_back(a.name);
    for (const std::string& name : names) Decode(name);
  }
  Verdict Judge(Subject subject = Subject::kSource, ScaleFacts facts = {}) {
    const Result<Inventory> inventory = TakeInventory(catalogue_);
    EXPECT_TRUE(inventory.ok()) << inventory.error().Message();
    return inventory.ok() ? JudgeDeclared(catalogue_, inventory.value(), facts, subject) : Verdict();
  }
  // Warned of in a source, an error of an output.
  void ExpectWrong(const char* id) {
    const Verdict source = Judge();
    EXPECT_TRUE(source.Has(id)) << id;
    EXPECT_TRUE(source.ToStatus().ok());
    const Status output = Judge(Subject::kOutput).ToStatus();
    ASSERT_FALSE(output.ok()) << id;
    EXPECT_EQ(output.error().id, id);
  }

  made::Model model_;
  Catalogue catalogue_;
};

TEST_F(Declared, WhatIsDeclaredAsItIsStoredHasNoWarning) {
  const Verdict verdict = Judge(Subject::kOutput);
  EXPECT_EQ(verdict.CountOf(Severity::kWarning), 0u);
  EXPECT_EQ(verdict.CountOf(Severity::kError), 0u);
  EXPECT_TRUE(verdict.Has("declared.unlisted_mtp"));  // as in the releases
}

TEST_F(Declared, EverythingDecodedUnderAnFp8Config) {
  DecodeAll();
  ExpectWrong("declared.nothing_quantized");
}

TEST_F(Declared, OneLayersAttentionDecoded) {
  Decode("model.layers.1.self_attn.qkv_proj.weight");
  ExpectWrong("declared.unlisted_module");
  EXPECT_TRUE(Judge().Has("declared.mixed_kind"));
  // Readers look attention up under q, k and v too.
  Edit([](json& c) { c["quantization_config"]["ignored_layers"].push_back("model.layers.1.self_attn.q_proj"); });
  EXPECT_FALSE(Judge().Has("declared.unlisted_module"));
}

TEST_F(Declared, OneExpertOfManyDecoded) {
  Decode("model.layers.1.mlp.experts.3.up_proj.weight");
  ExpectWrong("declared.unlisted_module");
}

TEST_F(Declared, OProjOfTheDecoderThatNoListNames) {
  Edit([](json& c) { c["quantization_config"].erase("ignored_layers"); });
  ExpectWrong("declared.unlisted_module");
}

TEST_F(Declared, CodesThatTheListSaysAreValues) {
  Edit([](json& c) { c["quantization_config"]["ignored_layers"].push_back("model.layers.0.mlp"); });
  ExpectWrong("declared.ignored_codes");
}

TEST_F(Declared, CodesWithoutAQuantizationConfig) {
  model_ = made::Model();  // in blocks of 128, which readers take without a config
  Remake();
  Edit([](json& c) { c.erase("quantization_config"); });
  ExpectWrong("declared.no_config");
}

TEST_F(Declared, Mxfp4ExpertsThatStoreDtypeDoesNotName) {
  model_.expert_storage = Storage::kMxfp4;
  Remake();
  EXPECT_FALSE(Judge().Has("declared.codec"));
  Edit([](json& c) { c["quantization_config"].erase("store_dtype"); });
  ExpectWrong("declared.codec");
}

TEST_F(Declared, ScalesPerRowWhereBlocksAreDeclared) {
  for (StoredArray& array : catalogue_.arrays) {
    if (array.name == "model.layers.0.mlp.down_proj.weight_scale_inv") array.shape = {model_.hidden, 1};
  }
  ExpectWrong("declared.codec");
}

TEST_F(Declared, TwoListsThatDiffer) {
  Edit([](json& c) { c["quantization_config"]["modules_to_not_convert"] = {"model.layers.0.self_attn.o_proj"}; });
  ExpectWrong("declared.lists_differ");
}

TEST_F(Declared, ScalesThatAreNoPowersOfTwo) {
  Edit([](json& c) { c["quantization_config"]["scale_fmt"] = "ue8m0"; });
  EXPECT_FALSE(Judge(Subject::kSource, {10, 10}).Has("declared.scale_format"));
  EXPECT_TRUE(Judge(Subject::kSource, {10, 9}).Has("declared.scale_format"));
}

TEST_F(Declared, AnotherTypeThanMostPlainWeightsHave) {
  Edit([](json& c) { c["torch_dtype"] = "float16"; });
  EXPECT_TRUE(Judge().Has("declared.dtype"));
}

TEST_F(Declared, NumbersOfMtpLayers) {
  Edit([](json& c) { c["num_nextn_predict_layers"] = 3; });
  EXPECT_TRUE(Judge().Has("declared.mtp_count"));
  Edit([](json& c) { c.erase("num_nextn_predict_layers"); });
  EXPECT_TRUE(Judge().Has("declared.mtp_unsaid"));
}

TEST_F(Declared, AProjectionLayoutThatIsNotThatOfTheTensors) {
  Edit([](json& c) { c.erase("attention_projection_layout"); });
  EXPECT_TRUE(Judge().Has("declared.projection_layout"));
}

// ---- dialects and their matching rules, by declaration.h

StoredKind KindIn(const json& quantization, const std::string& module, Role role = Role::kMlpUp) {
  return Declaration(json{{"quantization_config", quantization}}.dump()).Of(module, role);
}

TEST(Declaration, CompressedTensorsGoesByTargetsAndPatterns) {
  const json weights = {{"num_bits", 8}, {"type", "float"}, {"strategy", "channel"}};
  const json q = {{"quant_method", "compressed-tensors"},
                  {"config_groups",
                   {{"group_0", {{"targets", {"Linear"}}, {"weights", weights}}},
                    {"group_1",
                     {{"targets", {"re:.*experts\\.\\d+\\.up_proj$"}},
                      {"weights", {{"num_bits", 4}, {"type", "float"}, {"group_size", 32}, {"strategy", "group"}}}}}}},
                  {"ignore", {"lm_head", "re:.*o_proj$"}}};
  EXPECT_EQ(KindIn(q, "model.layers.0.mlp.up_proj"), StoredKind::kFp8Row);
  EXPECT_EQ(KindIn(q, "model.layers.0.mlp.experts.12.up_proj", Role::kExpertUp), StoredKind::kMxfp4);
  EXPECT_EQ(KindIn(q, "model.layers.0.self_attn.o_proj", Role::kAttnO), StoredKind::kPlain);
  EXPECT_EQ(KindIn(q, "lm_head", Role::kLmHead), StoredKind::kPlain);
}

TEST(Declaration, StrategiesOfCompressedTensors) {
  const auto kind = [](const json& weights) {
    return KindIn({{"quant_method", "compressed-tensors"},
                   {"config_groups", {{"group_0", {{"targets", {"Linear"}}, {"weights", weights}}}}}},
                  "model.layers.0.mlp.up_proj");
  };
  EXPECT_EQ(kind({{"num_bits", 8}, {"type", "float"}, {"strategy", "tensor"}}), StoredKind::kFp8Tensor);
  EXPECT_EQ(kind({{"num_bits", 8}, {"type", "float"}, {"strategy", "block"}}), StoredKind::kFp8Block);
  EXPECT_EQ(kind({{"num_bits", 8}, {"type", "float"}, {"strategy", "group"}, {"group_size", 32}}), StoredKind::kMxfp8);
  EXPECT_EQ(kind({{"num_bits", 4}, {"type", "float"}, {"strategy", "tensor_group"}}), StoredKind::kNvfp4);
  EXPECT_EQ(kind({{"num_bits", 4}, {"type", "int"}, {"strategy", "group"}}), StoredKind::kForeign);
}

TEST(Declaration, ModelOptGoesByGlobsAndByLayers) {
  const json all = {{"quant_method", "modelopt"}, {"quant_algo", "NVFP4"}, {"ignore", {"*self_attn*", "lm_head"}}};
  EXPECT_EQ(KindIn(all, "model.layers.3.mlp.up_proj"), StoredKind::kNvfp4);
  EXPECT_EQ(KindIn(all, "model.layers.3.self_attn.o_proj", Role::kAttnO), StoredKind::kPlain);
  const json mixed = {{"quant_method", "modelopt"},
                      {"quant_algo", "MIXED_PRECISION"},
                      {"quantized_layers",
                       {{"model.layers.1.mlp.experts", {{"quant_algo", "NVFP4"}}},
                        {"model.layers.0.mlp.up_proj", {{"quant_algo", "FP8_PB_WO"}}}}}};
  EXPECT_EQ(KindIn(mixed, "model.layers.1.mlp.experts.7.up_proj", Role::kExpertUp), StoredKind::kNvfp4);
  EXPECT_EQ(KindIn(mixed, "model.layers.0.mlp.up_proj"), StoredKind::kFp8Block);
  EXPECT_EQ(KindIn(mixed, "model.layers.0.mlp.down_proj", Role::kMlpDown), StoredKind::kPlain);
}

// vLLM compares whole names, transformers beginnings and ends: what all read is a whole name, what some may is the
// rest.
TEST(Declaration, NativeListsNameModules) {
  const json q = {{"quant_method", "fp8"},
                  {"weight_block_size", {128, 128}},
                  {"modules_to_not_convert",
                   {"gate_proj", "model.layers.5", "mlp.experts.0.up_proj", "model.layers.7.mlp.up_proj"}}};
  const Declaration declaration(json{{"quantization_config", q}}.dump());
  EXPECT_EQ(KindIn(q, "model.layers.1.mlp.gate_proj", Role::kMlpGate), StoredKind::kFp8Block);
  EXPECT_TRUE(declaration.MayIgnore("model.layers.1.mlp.gate_proj", Role::kMlpGate));
  EXPECT_TRUE(declaration.MayIgnore("model.layers.5.mlp.up_proj", Role::kMlpUp));
  EXPECT_FALSE(declaration.MayIgnore("model.layers.55.mlp.up_proj", Role::kMlpUp));
  EXPECT_EQ(KindIn(q, "model.layers.7.mlp.up_proj"), StoredKind::kPlain);
  EXPECT_TRUE(declaration.MayIgnore("model.layers.1.mlp.experts.0.up_proj", Role::kExpertUp));
  EXPECT_FALSE(declaration.MayIgnore("model.layers.1.mlp.experts.10.up_proj", Role::kExpertUp));
}

TEST(Declaration, WhatNobodyKnowsIsForeignAndNothingIsPlain) {
  EXPECT_EQ(KindIn({{"quant_method", "gptq"}, {"bits", 4}}, "model.layers.0.mlp.up_proj"), StoredKind::kForeign);
  EXPECT_EQ(Declaration("{}").Of("model.layers.0.mlp.up_proj", Role::kMlpUp), StoredKind::kPlain);
  EXPECT_EQ(Declaration("no JSON").Of("model.layers.0.mlp.up_proj", Role::kMlpUp), StoredKind::kPlain);
  EXPECT_FALSE(Declaration("{}").present());
}

}  // namespace
}  // namespace mimo::declared_test
