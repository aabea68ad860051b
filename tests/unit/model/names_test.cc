// Tensor names <-> ids, dimensions and the list of expected tensors.
#include "lib/model/names.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace mimo::names_test {
namespace {

const ModelTable& Table() {
  static const ModelTable& table = *ModelTable::Get("mimo_v2").value();
  return table;
}

// Layers: global dense, window MoE, global MoE. Two KV heads against four.
ModelConfig SmallConfig() {
  ModelConfig config;
  config.hidden = 256;
  config.layers = 3;
  config.vocab = 100;
  config.intermediate = 512;
  config.moe_intermediate = 64;
  config.experts = 2;
  config.global = {8, 2, 24, 16};
  config.window = {8, 4, 24, 16};
  config.windowed = {0, 1, 0};
  config.mtp_windowed = true;
  config.moe = {0, 1, 1};
  config.window_sinks = true;
  return config;
}

struct Known {
  const char* name;
  TensorId id;
};
const Known kKnown[] = {
    {"model.embed_tokens.weight", {Role::kEmbed, Part::kWeight, false, -1, -1}},
    {"lm_head.weight", {Role::kLmHead, Part::kWeight, false, -1, -1}},
    {"model.norm.weight", {Role::kFinalNorm, Part::kWeight, false, -1, -1}},
    {"model.layers.0.self_attn.k_proj.weight", {Role::kAttnK, Part::kWeight, false, 0, -1}},
    {"model.layers.47.self_attn.qkv_proj.weight_scale_inv", {Role::kAttnQkv, Part::kScaleInv, false, 47, -1}},
    {"model.layers.11.self_attn.attention_sink_bias", {Role::kAttnSink, Part::kWeight, false, 11, -1}},
    {"model.layers.3.mlp.gate.weight", {Role::kRouter, Part::kWeight, false, 3, -1}},
    {"model.layers.3.mlp.gate.e_score_correction_bias", {Role::kRouterBias, Part::kWeight, false, 3, -1}},
    {"model.layers.69.mlp.experts.383.down_proj.weight", {Role::kExpertDown, Part::kWeight, false, 69, 383}},
    {"model.layers.69.mlp.experts.0.up_proj.weight_scale", {Role::kExpertUp, Part::kScale, false, 69, 0}},
    {"model.layers.0.mlp.gate_proj.weight_scale_inv", {Role::kMlpGate, Part::kScaleInv, false, 0, -1}},
    {"model.mtp.layers.2.eh_proj.weight", {Role::kMtpEhProj, Part::kWeight, true, 2, -1}},
    {"model.mtp.layers.0.input_layernorm.weight", {Role::kInputNorm, Part::kWeight, true, 0, -1}},
    {"model.mtp.layers.1.mlp.down_proj.weight_scale_inv", {Role::kMlpDown, Part::kScaleInv, true, 1, -1}},
};

TEST(Names, KnownNamesAreIdentifiedAndNamedBack) {
  for (const Known& known : kKnown) {
    EXPECT_EQ(Table().Identify(known.name), known.id) << known.name;
    EXPECT_EQ(Table().NameOf(known.id), known.name);
  }
}

TEST(Names, EveryPartHasItsSuffixAndIsFoundByIt) {
  const std::pair<Part, std::string> kSuffixes[] = {
      {Part::kWeight, "weight"},
      {Part::kScaleInv, "weight_scale_inv"},
      {Part::kScale, "weight_scale"},
      {Part::kScale2, "weight_scale_2"},
      {Part::kInputScale, "input_scale"},
      {Part::kPacked, "weight_packed"},
      {Part::kGlobalScale, "weight_global_scale"},
      {Part::kInputGlobal, "input_global_scale"},
  };
  ASSERT_EQ(std::size(kSuffixes) + 1, kPartCount);
  // Neuron's: a name that no Hugging Face checkpoint has.
  EXPECT_EQ(PartSuffix(Part::kRowScale), "scale");
  EXPECT_FALSE(HoldsElements(Part::kRowScale));
  EXPECT_EQ(NameOfPart("lm_head.weight", Part::kRowScale), "lm_head.scale");
  EXPECT_EQ(Table().Identify("model.layers.1.self_attn.k_proj.scale"), TensorId());
  for (const auto& [part, suffix] : kSuffixes) {
    EXPECT_EQ(PartSuffix(part), suffix);
    EXPECT_EQ(HoldsElements(part), suffix == "weight" || suffix == "weight_packed");
    for (const auto& [prefix, id] : {std::pair<std::string, TensorId>{"lm_head.", {Role::kLmHead, part, false, -1, -1}},
                                     {"model.layers.7.mlp.experts.3.up_proj.", {Role::kExpertUp, part, false, 7, 3}},
                                     {"model.mtp.layers.2.self_attn.o_proj.", {Role::kAttnO, part, true, 2, -1}}}) {
      EXPECT_EQ(Table().Identify(prefix + suffix), id) << prefix + suffix;
      EXPECT_EQ(Table().NameOf(id), prefix + suffix);
      for (const auto& [other, other_suffix] : kSuffixes)
        EXPECT_EQ(NameOfPart(prefix + suffix, other), prefix + other_suffix);
    }
  }
  // Names that merely look like parts.
  EXPECT_EQ(Table().Identify("model.layers.1.input_layernorm.weight"),
            (TensorId{Role::kInputNorm, Part::kWeight, false, 1, -1}));
  for (const char* name :
       {"model.layers.1.self_attn.input_scale", "model.layers.1.mlp.gate.e_score_correction_bias.weight_scale",
        "model.layers.1.self_attn.attention_sink_bias.input_scale", "input_scale", "weight_scale",
        "model.layers.1.mlp.up_proj.weight_scale_3", "model.layers.1.mlp.up_proj.xweight_scale",
        "model.layers.1.mlp.up_proj.weight.weight_scale", "model.layers.1.self_attn.k_proj.v_scale"})
    EXPECT_EQ(Table().Identify(name), TensorId()) << name;
  EXPECT_EQ(Table().NameOf({Role::kAttnSink, Part::kScale, false, 1, -1}), "");
  EXPECT_EQ(Table().NameOf({Role::kRouterBias, Part::kInputScale, false, 1, -1}), "");
}

TEST(Names, ScalesOfTheCacheAreKnownWhereverTheyStand) {
  struct Named {
    const char* name;
    Role role;
    CachePlacement placement;
  };
  for (const Named& known : {Named{"k_proj.k_scale", Role::kCacheK, CachePlacement::kSplit},
                             Named{"v_proj.v_scale", Role::kCacheV, CachePlacement::kSplit},
                             Named{"q_proj.q_scale", Role::kCacheQ, CachePlacement::kSplit},
                             Named{"qkv_proj.k_scale", Role::kCacheK, CachePlacement::kFused},
                             Named{"qkv_proj.v_scale", Role::kCacheV, CachePlacement::kFused},
                             Named{"qkv_proj.q_scale", Role::kCacheQ, CachePlacement::kFused},
                             Named{"qkv_proj.kv_scale", Role::kCacheKv, CachePlacement::kFused},
                             Named{"k_scale", Role::kCacheK, CachePlacement::kAttention},
                             Named{"kv_scale", Role::kCacheKv, CachePlacement::kAttention},
                             Named{"attn.v_scale", Role::kCacheV, CachePlacement::kAttention}}) {
    for (const bool mtp : {false, true}) {
      const std::string name = std::string(mtp ? "model.mtp.layers.2" : "model.layers.7") + ".self_attn." + known.name;
      const TensorId id{known.role, Part::kWeight, mtp, mtp ? 2 : 7, -1};
      EXPECT_EQ(Table().Identify(name), id) << name;
      const CacheScaleName* found = Table().CacheScaleOf(name);
      ASSERT_NE(found, nullptr) << name;
      EXPECT_EQ(found->placement, known.placement) << name;
      const bool second = std::string(known.name).starts_with("attn.");  // another spelling is the one that is written
      EXPECT_EQ(Table().CacheScaleAt(id, known.placement) == name, !second) << name;
    }
  }
  EXPECT_EQ(Table().CacheScaleAt({Role::kCacheKv, Part::kWeight, false, 1, -1}, CachePlacement::kSplit), "");
  EXPECT_EQ(Table().CacheScaleOf("model.layers.1.self_attn.k_proj.weight"), nullptr);
  EXPECT_EQ(Table().NameOf({Role::kCacheK, Part::kWeight, false, 1, -1}), "");
}

TEST(Names, TowersAreKnownByPrefix) {
  EXPECT_EQ(Table().Identify("visual.blocks.3.attn.qkv.weight").role, Role::kVision);
  EXPECT_EQ(Table().Identify("audio_encoder.projection.mlp.0.weight").role, Role::kAudio);
  EXPECT_EQ(Table().Identify("speech_embeddings.19.weight").role, Role::kSpeech);
  EXPECT_EQ(Table().Identify("visual.blocks.3.attn.qkv.weight").layer, -1);
}

TEST(Names, EverythingElseIsUnknown) {
  for (const char* name : {"",
                           ".",
                           "model",
                           "model.layers..input_layernorm.weight",
                           "model.layers.00.input_layernorm.weight",
                           "model.layers.01.input_layernorm.weight",
                           "model.layers.-1.input_layernorm.weight",
                           "model.layers.2147483648.input_layernorm.weight",
                           "model.layers.99999999999999999999.input_layernorm.weight",
                           "model.layers.#.input_layernorm.weight",
                           "model.layers.{layer}.input_layernorm.weight",
                           "model.layers.1.2.input_layernorm.weight",
                           "model.layers.1.input_layernorm.bias",
                           "model.layers.1.self_attn.attention_sink_bias_scale",
                           "model.layers.1.mlp.gate.weight_scal",
                           "model.layers.1.input_layernorm.weight.",
                           "xmodel.layers.1.input_layernorm.weight",
                           "model.layers.1.mlp.experts.1.2.up_proj.weight",
                           "model.embed_tokens.0.weight",
                           "visual"}) {
    EXPECT_EQ(Table().Identify(name), TensorId()) << name;
  }
}

TEST(Names, EveryRoleHasOneName) {
  std::set<std::string_view> names;
  for (int i = 0; i <= static_cast<int>(Role::kUnknown); ++i) {
    const Role role = static_cast<Role>(i);
    EXPECT_TRUE(names.insert(RoleName(role)).second) << i;
    EXPECT_EQ(RoleFromName(RoleName(role)), role);
  }
  EXPECT_EQ(RoleFromName("attn"), std::nullopt);
}

TEST(Names, DimensionsFollowTheKindOfTheLayer) {
  const ModelConfig config = SmallConfig();
  auto value = [&](std::string_view symbol, int layer, bool mtp) {
    return Dimension(symbol, config, layer, mtp).value();
  };
  EXPECT_EQ(value("k_rows", 0, false), 2 * 24);
  EXPECT_EQ(value("k_rows", 1, false), 4 * 24);
  EXPECT_EQ(value("v_rows", 0, true), 4 * 16);  // MTP layers are windowed whatever the pattern says of layer 0
  EXPECT_EQ(value("qkv_rows", 2, false), 8 * 24 + 2 * 24 + 2 * 16);
  EXPECT_EQ(value("o_cols", 1, false), 8 * 16);
  EXPECT_EQ(value("2*hidden", -1, true), 512);
  EXPECT_EQ(value("17", -1, false), 17);
  EXPECT_FALSE(Dimension("k_rows", config, -1, false).ok());
  EXPECT_FALSE(Dimension("k_rows", config, 3, false).ok());
  EXPECT_FALSE(Dimension("x*hidden", config, 0, false).ok());
  EXPECT_FALSE(Dimension("9223372036854775807*hidden", config, 0, false).ok());
  EXPECT_FALSE(Dimension("", config, 0, false).ok());
}

TEST(Names, ExpectedTensorsAreThoseOfTheConfig) {
  const ModelConfig config = SmallConfig();
  const std::vector<ExpectedTensor> split = ExpectedTensors(Table(), config, false, 1).value();
  std::set<std::string> names;
  for (const ExpectedTensor& tensor : split) {
    EXPECT_TRUE(names.insert(tensor.name).second) << tensor.name;
    EXPECT_EQ(Table().Identify(tensor.name), tensor.id);
  }
  // Outside of layers 3; norms 2, q k v o 4 per layer; dense MLP 3; MoE 2 + 2 x 3 in two layers; one sink; MTP 14.
  EXPECT_EQ(split.size(), 3u + 3 * 6 + 3 + 2 * 8 + 1 + 14);
  EXPECT_TRUE(names.contains("model.layers.1.self_attn.attention_sink_bias"));
  EXPECT_FALSE(names.contains("model.layers.2.self_attn.attention_sink_bias"));
  EXPECT_TRUE(names.contains("model.mtp.layers.0.self_attn.attention_sink_bias"));
  EXPECT_FALSE(names.contains("model.layers.0.mlp.gate.weight"));
  EXPECT_FALSE(names.contains("model.layers.1.mlp.gate_proj.weight"));
  const std::vector<ExpectedTensor> fused = ExpectedTensors(Table(), config, true, 0).value();
  EXPECT_EQ(fused.size(), split.size() - 14 - 3 * 2);

  ModelConfig tied = config;
  tied.tied_embeddings = true;
  EXPECT_EQ(ExpectedTensors(Table(), tied, true, 0).value().size(), fused.size() - 1);
  ModelConfig sinks = config;
  sinks.global_sinks = true;
  EXPECT_EQ(ExpectedTensors(Table(), sinks, true, 0).value().size(), fused.size() + 2);
  ModelConfig absurd = config;
  absurd.experts = 2147483647;
  EXPECT_FALSE(ExpectedTensors(Table(), absurd, true, 0).ok());
}

TEST(Names, TablesThatCannotBeToldApartAreRefused) {
  auto parse = [](const std::string& tensors) { return ParseModelTable("{\"tensors\": [" + tensors + "]}").ok(); };
  const std::string tail = R"(, "shape": ["hidden"], "storage": "bf16"})";
  EXPECT_TRUE(parse(R"({"role": "embed", "name": "a.{layer}.b")" + tail));
  EXPECT_FALSE(parse(R"({"role": "embeds", "name": "a.{layer}.b")" + tail));
  EXPECT_FALSE(parse(R"({"role": "embed", "name": "a.{expert}.b")" + tail));
  EXPECT_FALSE(parse(R"({"role": "embed", "name": "a.x{layer}.b")" + tail));
  EXPECT_FALSE(parse(R"({"role": "embed", "name": "a.3.b")" + tail));
  EXPECT_FALSE(parse(R"({"role": "embed", "name": "a", "when": "never")" + tail));
  EXPECT_FALSE(parse(R"({"role": "embed", "name": "a.{layer}")" + tail + "," +
                     R"({"role": "router", "name": "a.{layer}")" + tail));
  EXPECT_FALSE(ParseModelTable("{").ok());
  EXPECT_FALSE(ParseModelTable("[]").ok());
  EXPECT_FALSE(ModelTable::Get("no_such_family").ok());
}

}  // namespace
}  // namespace mimo::names_test
