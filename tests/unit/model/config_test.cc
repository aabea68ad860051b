// ParseModelConfig: documented defaults, tolerated spellings, and errors that name the key.
#include "lib/model/config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace mimo::config_test {
namespace {

using Json = nlohmann::ordered_json;

// Four layers; the fields that have no default.
Json Minimal() {
  return {{"model_type", "mimo_v2"}, {"hidden_size", 4096},        {"num_hidden_layers", 4},
          {"vocab_size", 1000},      {"intermediate_size", 16384}, {"num_attention_heads", 64}};
}

ModelConfig Parse(const Json& json) {
  Result<ModelConfig> config = ParseModelConfig(json.dump(), "dir/config.json");
  EXPECT_TRUE(config.ok()) << config.error().Message();
  return config.ok() ? std::move(config).value() : ModelConfig();
}

Error Refused(const std::string& text) {
  Result<ModelConfig> config = ParseModelConfig(text, "dir/config.json");
  EXPECT_FALSE(config.ok()) << text;
  if (config.ok()) return {};
  EXPECT_EQ(config.error().code, ErrorCode::kBadInput);
  EXPECT_EQ(config.error().file, "dir/config.json");
  EXPECT_FALSE(config.error().what.empty());
  EXPECT_FALSE(config.error().expected.empty());
  EXPECT_FALSE(config.error().found.empty());
  EXPECT_FALSE(config.error().advice.empty());
  return config.error();
}

// The error names the key.
void ExpectRefused(Json json, const std::string& key, const Json& value) {
  json[key] = value;
  const Error error = Refused(json.dump());
  EXPECT_NE(error.what.find(key), std::string::npos) << error.Message();
}

TEST(Config, AbsentFieldsHaveTheirDocumentedMeaning) {
  const ModelConfig config = Parse(Minimal());
  EXPECT_EQ(config.global, (AttentionShape{64, 64, 64, 64}));
  EXPECT_EQ(config.window, config.global);
  EXPECT_EQ(config.windowed, std::vector<uint8_t>(4, 0));
  EXPECT_EQ(config.moe, std::vector<uint8_t>(4, 0));
  EXPECT_EQ(config.projection_layout, "");
  EXPECT_EQ(config.quant_method, "");
  EXPECT_EQ(config.block_rows, 128);
  EXPECT_EQ(config.block_cols, 128);
  EXPECT_FALSE(config.global_sinks || config.window_sinks || config.tied_embeddings);
  EXPECT_FALSE(config.has_vision || config.has_audio);
  EXPECT_FALSE(config.nextn_layers.has_value());
  EXPECT_FALSE(config.marker.has_value());
  EXPECT_EQ(config.router_dtype, "");
  EXPECT_FALSE(config.value_scale.has_value());
}

TEST(Config, SlidingWindowFieldsDefaultToTheGlobalOnes) {
  Json json = Minimal();
  json["num_key_value_heads"] = 4;
  json["head_dim"] = 192;
  json["v_head_dim"] = 128;
  json["swa_num_key_value_heads"] = 8;
  const ModelConfig config = Parse(json);
  EXPECT_EQ(config.global, (AttentionShape{64, 4, 192, 128}));
  EXPECT_EQ(config.window, (AttentionShape{64, 8, 192, 128}));
  json.erase("v_head_dim");
  EXPECT_EQ(Parse(json).global.v_head_dim, 192);
}

TEST(Config, NullIsAbsentAndIntegersMayBeStrings) {
  Json json = Minimal();
  json["hidden_size"] = "4096";
  json["num_nextn_predict_layers"] = nullptr;
  json["hybrid_layer_pattern"] = nullptr;
  const ModelConfig config = Parse(json);
  EXPECT_EQ(config.hidden, 4096);
  EXPECT_FALSE(config.nextn_layers.has_value());
  json["num_nextn_predict_layers"] = 3;
  EXPECT_EQ(Parse(json).nextn_layers, 3);
}

TEST(Config, LayerKindsComeFromTheListsAndMtpLayersAreWindowed) {
  Json json = Minimal();
  json["hybrid_layer_pattern"] = {0, 1, 1, 0};
  json["moe_layer_freq"] = {0, 1, 0, 1};
  json["n_routed_experts"] = 256;
  json["moe_intermediate_size"] = 2048;
  json["num_key_value_heads"] = 4;
  json["swa_num_key_value_heads"] = 8;
  const ModelConfig config = Parse(json);
  EXPECT_EQ(config.windowed, (std::vector<uint8_t>{0, 1, 1, 0}));
  EXPECT_EQ(config.moe, (std::vector<uint8_t>{0, 1, 0, 1}));
  EXPECT_EQ(config.attention_of(0, false).kv_heads, 4);
  EXPECT_EQ(config.attention_of(1, false).kv_heads, 8);
  EXPECT_EQ(config.attention_of(0, true).kv_heads, 8);
}

TEST(Config, AnIntegerFrequencyMakesEveryNthLayerButTheFirstMoe) {
  Json json = Minimal();
  json["n_routed_experts"] = 8;
  json["moe_intermediate_size"] = 64;
  json["moe_layer_freq"] = 1;
  EXPECT_EQ(Parse(json).moe, (std::vector<uint8_t>{0, 1, 1, 1}));
  json["moe_layer_freq"] = 2;
  EXPECT_EQ(Parse(json).moe, (std::vector<uint8_t>{0, 0, 1, 0}));
}

TEST(Config, QuantizationAndMarkerAreRead) {
  Json json = Minimal();
  json["quantization_config"] = {
      {"quant_method", "fp8"}, {"store_dtype", "mxfp4"}, {"weight_block_size", {64, "32"}}, {"mxfp4_block_size", 16}};
  json["mimo_layout"] = {{"version", 1}, {"qkv", "fused"}, {"chunks", 8}, {"kv_heads", 4}, {"swa_kv_heads", 8}};
  json["vision_config"] = Json::object();
  const ModelConfig config = Parse(json);
  EXPECT_EQ(config.quant_method, "fp8");
  EXPECT_EQ(config.store_dtype, "mxfp4");
  EXPECT_EQ(config.block_rows, 64);
  EXPECT_EQ(config.block_cols, 32);
  EXPECT_EQ(config.mxfp4_block, 16);
  ASSERT_TRUE(config.marker.has_value());
  EXPECT_TRUE(config.marker->fused);
  EXPECT_EQ(config.marker->chunks, 8);
  EXPECT_EQ(config.marker->kv_heads, 4);
  EXPECT_EQ(config.marker->swa_kv_heads, 8);
  EXPECT_TRUE(config.has_vision);
  EXPECT_FALSE(config.has_audio);
}

TEST(Config, TheMarkerSaysWhatADirectoryIsAndWhatItWasMadeFrom) {
  Json json = Minimal();
  const Json plain = {{"version", 1}, {"qkv", "fused"}, {"chunks", 8}, {"kv_heads", 4}, {"swa_kv_heads", 8}};
  json["mimo_layout"] = plain;
  EXPECT_EQ(Parse(json).marker->form, FormKind::kHf);
  EXPECT_FALSE(Parse(json).marker->source.has_value());
  EXPECT_FALSE(Parse(json).marker->unpadded.has_value());
  Json& marker = json["mimo_layout"];
  marker.update({{"form", "sharded-state"}, {"table", "vllm-0.33"}, {"tp", 8}, {"ep", 2}, {"folded_value_scale", "v"}});
  marker["source"] = {{"qkv", "split"}, {"chunks", 1}, {"grid", "independent"}};
  marker["unpadded"] = {{"heads", 64},       {"kv_heads", 4},        {"swa_heads", 32},
                        {"swa_kv_heads", 8}, {"intermediate", 4096}, {"moe_intermediate", 2048},
                        {"vocab", 1000}};
  const ModelConfig sharded = Parse(json);
  EXPECT_EQ(sharded.marker->form, FormKind::kShardedState);
  EXPECT_EQ(sharded.marker->table, "vllm-0.33");
  EXPECT_EQ(sharded.marker->tp, 8);
  EXPECT_EQ(sharded.marker->ep, 2);
  EXPECT_EQ(sharded.marker->folded, "v");
  EXPECT_FALSE(sharded.marker->independent);
  ASSERT_TRUE(sharded.marker->source.has_value());
  EXPECT_FALSE(sharded.marker->source->fused);
  EXPECT_EQ(sharded.marker->source->chunks, 1);
  EXPECT_TRUE(sharded.marker->source->independent);
  EXPECT_EQ(sharded.marker->unpadded, (UnpaddedDimensions{64, 4, 32, 8, 4096, 2048, 1000}));
  // Each key that a reader relies on is missed by its path.
  const auto refused = [&](const Json& changed, const char* key) {
    Json bad = json;
    bad["mimo_layout"] = changed;
    EXPECT_NE(Refused(bad.dump()).what.find(key), std::string::npos) << Refused(bad.dump()).Message();
  };
  for (const char* key : {"tp", "ep", "chunks", "kv_heads", "swa_kv_heads"}) {
    Json changed = marker;
    changed.erase(key);
    refused(changed, key);
  }
  Json changed = marker;
  changed["form"] = "gguf";
  refused(changed, "mimo_layout.form");
  changed = marker;
  changed["source"]["qkv"] = "both";
  refused(changed, "source.qkv");
  changed = marker;
  changed["source"].erase("chunks");
  refused(changed, "source.chunks");
  changed = marker;
  changed["unpadded"].erase("vocab");
  refused(changed, "unpadded.vocab");
  changed = marker;
  changed["unpadded"]["heads"] = 0;
  refused(changed, "unpadded.heads");
  // A Neuron directory: no ranks.
  json["mimo_layout"] = plain;
  json["mimo_layout"].update({{"form", "nxdi"}, {"expert_codes", "halve"}, {"qkv", "split"}, {"grid", "independent"}});
  EXPECT_EQ(Parse(json).marker->expert_codes, ExpertCodes::kHalve);
  EXPECT_TRUE(Parse(json).marker->independent);
}

TEST(Config, ValueScaleAndRouterType) {
  Json json = Minimal();
  json["attention_value_scale"] = 0.612;
  json["moe_router_dtype"] = "bfloat16";
  EXPECT_EQ(Parse(json).value_scale, 0.612);
  EXPECT_EQ(Parse(json).router_dtype, "bfloat16");
  json["attention_value_scale"] = 1;
  EXPECT_EQ(Parse(json).value_scale, 1.0);
  json["attention_value_scale"] = nullptr;
  EXPECT_FALSE(Parse(json).value_scale.has_value());
  ExpectRefused(Minimal(), "attention_value_scale", "much");
}

TEST(Config, BadNumbersAreRefusedByName) {
  ExpectRefused(Minimal(), "hidden_size", -4096);
  ExpectRefused(Minimal(), "hidden_size", 0);
  ExpectRefused(Minimal(), "hidden_size", 4096.5);
  ExpectRefused(Minimal(), "hidden_size", "4096x");
  ExpectRefused(Minimal(), "vocab_size", 4294967296);
  ExpectRefused(Minimal(), "vocab_size", 18446744073709551615u);
  ExpectRefused(Minimal(), "num_hidden_layers", 2147483647);
  ExpectRefused(Minimal(), "num_key_value_heads", 3);  // does not divide 64
  ExpectRefused(Minimal(), "head_dim", 2147483647);    // products must not overflow
  ExpectRefused(Minimal(), "tie_word_embeddings", "no");
  for (const char* key :
       {"hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size", "num_attention_heads"}) {
    Json json = Minimal();
    json.erase(key);
    EXPECT_NE(Refused(json.dump()).what.find(key), std::string::npos);
  }
}

// Before anything is sized or looped over by them.
TEST(Config, CountsAreBoundedTogether) {
  Json config = Minimal();
  config["num_hidden_layers"] = 65536;
  config["n_routed_experts"] = 16;
  config["moe_intermediate_size"] = 64;
  config["moe_layer_freq"] = 1;
  EXPECT_EQ(Parse(config).experts, 16);
  ExpectRefused(config, "n_routed_experts", 17);
  ExpectRefused(config, "n_routed_experts", 65536);
  config["num_hidden_layers"] = 2;  // one of them MoE
  config["n_routed_experts"] = 65536;
  EXPECT_EQ(Parse(config).experts, 65536);
  ExpectRefused(config, "n_routed_experts", 65537);
}

TEST(Config, MarkersNameNoMoreThanThereIs) {
  const Json usual = {{"version", 1}, {"qkv", "fused"}, {"chunks", 1}, {"kv_heads", 64}, {"swa_kv_heads", 64}};
  const auto marked = [&](const Json& changes) {
    Json config = Minimal();
    config["mimo_layout"] = usual;
    config["mimo_layout"].update(changes);
    return config;
  };
  EXPECT_TRUE(Parse(marked(Json::object())).marker.has_value());
  constexpr int64_t kMost = 2147483647;
  for (const Json& changes : {Json{{"chunks", kMost}}, Json{{"kv_heads", 65}}, Json{{"swa_kv_heads", kMost}},
                              Json{{"form", "sharded-state"}, {"tp", 65537}, {"ep", 1}},
                              Json{{"form", "sharded-state"}, {"tp", 1}, {"ep", kMost}},
                              Json{{"source", {{"qkv", "fused"}, {"chunks", kMost}}}}})
    EXPECT_NE(Refused(marked(changes).dump()).what.find("mimo_layout."), std::string::npos);
  const Json dimensions = {{"heads", 64},           {"kv_heads", 64},        {"swa_heads", 64}, {"swa_kv_heads", 64},
                           {"intermediate", 16384}, {"moe_intermediate", 1}, {"vocab", 1000}};
  EXPECT_TRUE(Parse(marked({{"unpadded", dimensions}})).marker->unpadded.has_value());
  for (const auto& [key, value] : dimensions.items()) {
    if (key == "moe_intermediate") continue;  // of this model's nothing
    Json larger = dimensions;
    larger[key] = value.get<int64_t>() + 1;
    EXPECT_NE(Refused(marked({{"unpadded", larger}}).dump()).what.find("unpadded." + key), std::string::npos);
  }
}

TEST(Config, DocumentsAreBounded) {
  for (const char* key : {"hidden_size", "unknown"}) {
    const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
    const std::string text = Minimal().dump();
    EXPECT_NE(Refused("{\"" + std::string(key) + "x\":" + deep + "," + text.substr(1)).expected.find("levels"),
              std::string::npos);
  }
  EXPECT_NE(Refused("{\"hidden_size\":1," + Minimal().dump().substr(1)).found.find("twice"), std::string::npos);
}

TEST(Config, ListsMustHaveOneFlagPerLayer) {
  ExpectRefused(Minimal(), "hybrid_layer_pattern", {0, 1, 1});
  ExpectRefused(Minimal(), "hybrid_layer_pattern", {0, 1, 1, 0, 0});
  ExpectRefused(Minimal(), "hybrid_layer_pattern", {0, 1, 2, 0});
  ExpectRefused(Minimal(), "moe_layer_freq", {0, 1});
  ExpectRefused(Minimal(), "moe_layer_freq", 0);
  Json json = Minimal();
  json["moe_layer_freq"] = {0, 1, 1, 1};  // and no experts
  EXPECT_NE(Refused(json.dump()).what.find("n_routed_experts"), std::string::npos);
}

TEST(Config, BadNestedFieldsAreRefusedWithTheirPath) {
  for (const Json& size : {Json{128}, Json{128, 0}, Json{128, -1}, Json("128"), Json{128, 128, 128}}) {
    Json json = Minimal();
    json["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", size}};
    EXPECT_NE(Refused(json.dump()).what.find("quantization_config.weight_block_size"), std::string::npos);
  }
  ExpectRefused(Minimal(), "mimo_layout", {{"version", 2}});
  ExpectRefused(Minimal(), "mimo_layout", {{"version", 1}, {"qkv", "both"}});
  ExpectRefused(Minimal(), "vision_config", 3);
}

TEST(Config, WhatIsNoJsonObjectIsRefusedWithItsPosition) {
  const Error error = Refused("{\n  \"a\": 1,\n}");
  EXPECT_NE(error.found.find("line 3, column 1"), std::string::npos) << error.Message();
  Refused("");
  Refused("[]");
  Refused("3");
  Refused(std::string(100000, '['));
  Refused("{\"hidden_size\": \"\xff\"}");
}

}  // namespace
}  // namespace mimo::config_test
