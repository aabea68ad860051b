// config.json and index of an output: edited where the form requires it and nowhere else.
#include "lib/forms/hf/hf_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace mimo::hf_config_test {
namespace {

using nlohmann::ordered_json;

constexpr char kConfig[] =
    R"({"architectures": ["MiMoV2ForCausalLM"], "auto_map": {"AutoConfig": "configuration_mimo_v2.MiMoV2Config"},
  "attention_projection_layout": "fused_qkv", "hidden_size": 4096, "num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 128,
  "num_attention_heads": 64, "num_key_value_heads": 4, "swa_num_key_value_heads": 8, "head_dim": 192, "v_head_dim": 128,
  "hybrid_layer_pattern": [0], "moe_layer_freq": [0], "layernorm_epsilon": 1e-05, "partial_rotary_factor": 0.334, "dtype": "bfloat16",
  "vision_config": {"depth": 28}, "audio_config": {"speech_vocab_size": "1280"}, "image_token_id": 1, "eos_token_id": 151645,
  "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128],
    "ignored_layers": ["model.layers.0.self_attn.o_proj", "model.decoder.self_attn.o_proj"]}})";

ModelConfig Parsed() {
  auto config = ParseModelConfig(kConfig, "config.json");
  EXPECT_TRUE(config.ok()) << config.error().Message();
  return config.value();
}

HfDescription Describe(QkvLayout layout) {
  HfDescription d;
  d.layout = layout;
  d.global = Parsed().global;
  d.window = Parsed().window;
  d.quantization.quantized = {{"model.layers.0.mlp.up_proj"}};
  return d;
}

ordered_json Edit(const HfDescription& d) {
  return ordered_json::parse(EditHfConfig(Parsed(), d).value());
}

std::vector<std::string> Keys(const ordered_json& object) {
  std::vector<std::string> keys;
  for (const auto& item : object.items()) keys.push_back(item.key());
  return keys;
}

TEST(HfConfig, KeepsWhatTheFormDoesNotTouch) {
  const ordered_json before = ordered_json::parse(kConfig), after = Edit(Describe({QkvKind::kFused, 4}));
  for (const auto& item : before.items())
    if (item.key() != "quantization_config") {
      EXPECT_EQ(after[item.key()], item.value()) << item.key();
    }
  std::vector<std::string> expected = Keys(before);
  expected.emplace_back("mimo_layout");
  EXPECT_EQ(Keys(after), expected);  // in their order
  EXPECT_NE(EditHfConfig(Parsed(), Describe({QkvKind::kFused, 4})).value().find("1e-05"), std::string::npos);
}

TEST(HfConfig, ReplicationRaisesBothKvHeadCountsAndKeepsTheTruthInTheMarker) {
  const ordered_json config = Edit(Describe({QkvKind::kFused, 16}));
  EXPECT_EQ(config["num_key_value_heads"], 16);
  EXPECT_EQ(config["swa_num_key_value_heads"], 16);
  EXPECT_EQ(config["mimo_layout"],
            ordered_json::parse(R"({"version": 1, "qkv": "fused", "chunks": 16, "kv_heads": 4, "swa_kv_heads": 8})"));
  const ordered_json eight = Edit(Describe({QkvKind::kFused, 8}));
  EXPECT_EQ(eight["num_key_value_heads"], 8);
  EXPECT_EQ(eight["swa_num_key_value_heads"], 8);
  // What was written reads back as what was meant.
  const auto parsed = ParseModelConfig(config.dump(), "x");
  ASSERT_TRUE(parsed.ok());
  ASSERT_TRUE(parsed.value().marker.has_value());
  EXPECT_EQ(parsed.value().marker->chunks, 16);
  EXPECT_EQ(parsed.value().marker->kv_heads, 4);
}

TEST(HfConfig, SplitDropsTheFusedKey) {
  const ordered_json config = Edit(Describe({QkvKind::kSplit, 4}));
  EXPECT_FALSE(config.contains("attention_projection_layout"));
  EXPECT_EQ(config["mimo_layout"]["grid"], "chunk");
  EXPECT_EQ(Edit(Describe({QkvKind::kSplitIndependent, 1}))["mimo_layout"]["grid"], "independent");
}

TEST(HfConfig, IgnoreListsAreCompleteUnderBothNames) {
  HfDescription d = Describe({QkvKind::kFused, 4});
  d.quantization.unquantized = {"model.layers.0.self_attn.o_proj", "model.mtp.layers.0.eh_proj"};
  const ordered_json q = Edit(d)["quantization_config"];
  const ordered_json expected = {"model.layers.0.self_attn.o_proj", "model.decoder.self_attn.o_proj",
                                 "model.mtp.layers.0.eh_proj"};
  EXPECT_EQ(q["ignored_layers"], expected);
  EXPECT_EQ(q["modules_to_not_convert"], expected);
  EXPECT_EQ(q["fmt"], "e4m3");
}

TEST(HfConfig, UnquantizedTextOnlyFp16) {
  HfDescription d = Describe({QkvKind::kSplitIndependent, 1});
  d.quantization.quantized.clear();
  d.text_only = true;
  d.dtype = "float16";
  const ordered_json config = Edit(d);
  for (const char* key : {"quantization_config", "vision_config", "audio_config", "image_token_id", "torch_dtype"})
    EXPECT_FALSE(config.contains(key)) << key;
  EXPECT_EQ(config["dtype"], "float16");
  EXPECT_EQ(config["eos_token_id"], 151645);
  EXPECT_TRUE(config.contains("auto_map"));
}

TEST(HfIndex, MetadataAndMap) {
  const auto parsed = ParseIndex(
      R"({"metadata": {"total_size": 5, "save_format": "fp8", "tp_size": 4, "by": "x\"y"}, "weight_map": {}})", "i");
  ASSERT_TRUE(parsed.ok());
  const std::vector<std::pair<std::string, std::string>> where = {{"a", "1.safetensors"}, {"b\"", "2.safetensors"}};
  HfDescription d = Describe({QkvKind::kFused, 8});
  ordered_json index = ordered_json::parse(BuildHfIndex(parsed.value().info, d, 1033369538304ull, where));
  EXPECT_EQ(index["metadata"],
            ordered_json::parse(R"({"total_size": 1033369538304, "save_format": "fp8", "by": "x\"y", "tp_size": 8})"));
  EXPECT_EQ(index["weight_map"]["b\""], "2.safetensors");
  d.layout = {QkvKind::kSplitIndependent, 1};
  d.quantization.quantized.clear();
  index = ordered_json::parse(BuildHfIndex(parsed.value().info, d, 1, where));
  EXPECT_EQ(index["metadata"], ordered_json::parse(R"({"total_size": 1, "by": "x\"y"})"));
}

TEST(HfIndex, SaveFormatFollowsTheWeights) {
  const auto parsed = ParseIndex(R"({"metadata": {"save_format": "fp8"}, "weight_map": {}})", "i");
  HfDescription d = Describe({QkvKind::kSplitIndependent, 1});
  d.quantization.quantized.push_back({"model.layers.1.mlp.experts.0.up_proj", kernels::Codec::kMxfp4});
  const auto metadata = [&] { return ordered_json::parse(BuildHfIndex(parsed.value().info, d, 1, {}))["metadata"]; };
  EXPECT_EQ(metadata()["save_format"], "mxfp4");
  d.quantization.dialect = Dialect::kModelOpt;
  EXPECT_FALSE(metadata().contains("save_format"));
}

TEST(HfConfig, AMixtureThatTheDialectCannotDescribeIsAUsageError) {
  HfDescription d = Describe({QkvKind::kSplitIndependent, 1});
  d.quantization.quantized[0].codec = kernels::Codec::kNvfp4;
  const auto config = EditHfConfig(Parsed(), d);
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(config.error().code, ErrorCode::kUsage);
}

// What a description says beyond the layout, in the config and read back from it.
TEST(HfConfig, GeometryOfAPaddedModelAndItsMarker) {
  HfDescription d = Describe({QkvKind::kFused, 6});
  d.global = {96, 6, 192, 128};
  d.window = {96, 12, 192, 128};
  d.intermediate = 16896;
  d.moe_intermediate = 0;  // as the source says
  d.vocab = 192;
  d.marker.source = MarkedLayout{.fused = true, .chunks = 4};
  d.marker.unpadded = UnpaddedDimensions{64, 4, 64, 8, 128, 2048, 8};
  const ordered_json config = Edit(d);
  EXPECT_EQ(config["num_attention_heads"], 96);
  EXPECT_EQ(config["swa_num_attention_heads"], 96);  // absent before, and 96 is not what it would default to alone
  EXPECT_EQ(config["num_key_value_heads"], 6);
  EXPECT_EQ(config["swa_num_key_value_heads"], 12);
  EXPECT_EQ(config["intermediate_size"], 16896);
  EXPECT_FALSE(config.contains("moe_intermediate_size"));
  EXPECT_EQ(config["vocab_size"], 192);
  EXPECT_EQ(config["mimo_layout"], ordered_json::parse(R"({"version": 1, "qkv": "fused", "chunks": 6, "kv_heads": 6,
    "swa_kv_heads": 12, "source": {"qkv": "fused", "chunks": 4}, "unpadded": {"heads": 64, "kv_heads": 4,
    "swa_heads": 64, "swa_kv_heads": 8, "intermediate": 128, "moe_intermediate": 2048, "vocab": 8}})"));
  const auto parsed = ParseModelConfig(config.dump(), "x");
  ASSERT_TRUE(parsed.ok()) << parsed.error().Message();
  EXPECT_EQ(parsed.value().marker->unpadded, d.marker.unpadded);
  EXPECT_EQ(LayoutOf(*parsed.value().marker->source), (QkvLayout{QkvKind::kFused, 4}));
}

TEST(HfConfig, RankFilesKeepTheModelsOwnHeadsAndLoseTheFusedKey) {
  HfDescription d = Describe({QkvKind::kFused, 16});
  d.ranks = true;
  d.keeps_quantization = true;
  d.marker.form = FormKind::kShardedState;
  d.marker.table = "vllm-0.33";
  d.marker.tp = 16;
  d.marker.ep = 1;
  d.marker.source = MarkedLayout{.fused = false, .chunks = 4};
  const ordered_json config = Edit(d);
  EXPECT_EQ(config["num_key_value_heads"], 4);
  EXPECT_EQ(config["swa_num_key_value_heads"], 8);
  EXPECT_FALSE(config.contains("attention_projection_layout"));
  EXPECT_EQ(config["quantization_config"], ordered_json::parse(kConfig)["quantization_config"]);
  EXPECT_EQ(config["mimo_layout"],
            ordered_json::parse(R"({"version": 1, "qkv": "fused", "chunks": 16, "kv_heads": 4, "swa_kv_heads": 8,
    "form": "sharded-state", "table": "vllm-0.33", "tp": 16, "ep": 1,
    "source": {"qkv": "split", "chunks": 4, "grid": "chunk"}})"));
}

TEST(HfConfig, AFoldedValueScaleCannotBeAppliedAgain) {
  ordered_json source = ordered_json::parse(kConfig);
  source["attention_value_scale"] = 0.612;
  const auto config = ParseModelConfig(source.dump(), "x");
  ASSERT_TRUE(config.ok());
  HfDescription d = Describe({QkvKind::kFused, 4});
  EXPECT_EQ(ordered_json::parse(EditHfConfig(config.value(), d).value())["attention_value_scale"], 0.612);
  d.folded_value_scale = true;
  d.marker.folded = "o";
  const ordered_json after = ordered_json::parse(EditHfConfig(config.value(), d).value());
  ASSERT_TRUE(after.contains("attention_value_scale"));
  EXPECT_TRUE(after["attention_value_scale"].is_null());
  EXPECT_EQ(after["mimo_layout"]["folded_value_scale"], "o");
  EXPECT_FALSE(ParseModelConfig(after.dump(), "x").value().value_scale.has_value());
}

TEST(HfConfig, ArchitectureOfTheReaderAndItsForm) {
  HfDescription d = Describe({QkvKind::kSplitIndependent, 1});
  d.architecture = "MiMoV2FlashForCausalLM";
  d.keeps_quantization = true;
  d.marker.form = FormKind::kNxdi;
  d.marker.expert_codes = ExpertCodes::kRescale;
  const ordered_json config = Edit(d);
  EXPECT_EQ(config["architectures"], ordered_json::parse(R"(["MiMoV2FlashForCausalLM"])"));
  EXPECT_EQ(config["mimo_layout"]["form"], "nxdi");
  EXPECT_EQ(config["mimo_layout"]["expert_codes"], "rescale");
  EXPECT_EQ(config["mimo_layout"]["grid"], "independent");
}

TEST(HfMarker, EveryLayoutReadsBackAsItself) {
  for (const QkvLayout& layout :
       {QkvLayout{QkvKind::kFused, 8}, QkvLayout{QkvKind::kSplit, 4}, QkvLayout{QkvKind::kSplitIndependent, 1}})
    EXPECT_EQ(LayoutOf(MarkOf(layout)), layout) << layout.ToString();
}

}  // namespace
}  // namespace mimo::hf_config_test
