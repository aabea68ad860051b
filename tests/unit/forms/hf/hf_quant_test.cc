// Names of quantized arrays and quantization configs, against what the formats' own documents and readers say.
#include "lib/forms/hf/hf_quant.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "lib/recipe/recipe_words.h"

namespace mimo::hf_quant_test {
namespace {

using nlohmann::ordered_json;

using kernels::Codec;

QuantizedModule Module(const std::string& name, Codec codec, bool input_scale = false) {
  return {name, codec, input_scale, false};
}

ordered_json Config(const HfQuantization& q, const std::string& source = "") {
  const auto text = QuantizationConfig(q, source);
  EXPECT_TRUE(text.ok()) << text.error().Message();
  return text.ok() ? ordered_json::parse(text.value()) : ordered_json();
}
ordered_json HfQuant(const HfQuantization& q) {
  return ordered_json::parse(HfQuantConfig(q).value());
}

// One dense layer, one layer of two experts; everything that is not in `quantized` is plain.
HfQuantization Model(Dialect dialect, std::vector<QuantizedModule> quantized) {
  HfQuantization q;
  q.dialect = dialect;
  q.quantized = std::move(quantized);
  for (const char* name : {"model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "model.layers.1.mlp.gate",
                           "model.layers.1.mlp.experts.0.up_proj", "model.layers.1.mlp.experts.1.up_proj", "lm_head"}) {
    const auto same = [&](const QuantizedModule& module) { return module.name == name; };
    if (std::none_of(q.quantized.begin(), q.quantized.end(), same)) q.unquantized.emplace_back(name);
  }
  return q;
}

std::vector<QuantizedModule> Experts(Codec codec, bool input_scale = false) {
  return {Module("model.layers.1.mlp.experts.0.up_proj", codec, input_scale),
          Module("model.layers.1.mlp.experts.1.up_proj", codec, input_scale)};
}

TEST(Dialect, NamesRoundTrip) {
  for (Dialect dialect : {Dialect::kNative, Dialect::kModelOpt, Dialect::kCompressedTensors})
    EXPECT_EQ(FromWord(kDialects, WordOf(kDialects, dialect)), dialect);
  EXPECT_FALSE(FromWord(kDialects, "gguf").has_value());
}

TEST(Dialect, ArraysAreThoseOfTheReference) {  // reference quantization-formats.md 3.1, 4.3
  const auto check = [](Dialect dialect, Codec codec, const char* codes, DType code_dtype, const char* scales,
                        DType scale_dtype, const char* global, const char* input) {
    const auto arrays = ArraysOf(dialect, codec);
    ASSERT_TRUE(arrays.has_value());
    EXPECT_EQ(PartSuffix(arrays->codes), codes);
    EXPECT_EQ(PartSuffix(arrays->scales), scales);
    EXPECT_EQ(arrays->code_dtype, code_dtype);
    EXPECT_EQ(arrays->scale_dtype, scale_dtype);
    EXPECT_EQ(arrays->global ? PartSuffix(*arrays->global) : "", global);
    EXPECT_EQ(arrays->input ? PartSuffix(*arrays->input) : "", input);
    EXPECT_EQ(arrays->global_divides, std::string(global) == "weight_global_scale");
    EXPECT_EQ(arrays->input_divides, std::string(input) == "input_global_scale");
  };
  using enum Dialect;
  const DType u8 = DType::kU8, e4m3 = DType::kF8E4M3, f32 = DType::kF32;
  check(kNative, Codec::kFp8Block, "weight", e4m3, "weight_scale_inv", f32, "", "");
  check(kNative, Codec::kMxfp4, "weight", u8, "weight_scale", u8, "", "");
  check(kModelOpt, Codec::kFp8Block, "weight", e4m3, "weight_scale_inv", f32, "", "");
  check(kModelOpt, Codec::kMxfp8, "weight", e4m3, "weight_scale", u8, "", "");
  check(kModelOpt, Codec::kNvfp4, "weight", u8, "weight_scale", e4m3, "weight_scale_2", "input_scale");
  check(kCompressedTensors, Codec::kFp8Block, "weight", e4m3, "weight_scale", f32, "", "");
  check(kCompressedTensors, Codec::kMxfp4, "weight_packed", u8, "weight_scale", u8, "", "");
  check(kCompressedTensors, Codec::kMxfp8, "weight", e4m3, "weight_scale", u8, "", "");
  check(kCompressedTensors, Codec::kNvfp4, "weight_packed", u8, "weight_scale", e4m3, "weight_global_scale",
        "input_global_scale");
  EXPECT_FALSE(ArraysOf(kNative, Codec::kNvfp4).has_value());
  EXPECT_FALSE(ArraysOf(kNative, Codec::kMxfp8).has_value());
  EXPECT_FALSE(ArraysOf(kModelOpt, Codec::kMxfp4).has_value());
  for (Dialect dialect : {kNative, kModelOpt, kCompressedTensors})
    for (Codec plain : {Codec::kFp32, Codec::kFp16, Codec::kBf16}) EXPECT_FALSE(ArraysOf(dialect, plain).has_value());
}

TEST(NativeConfig, KeepsTheSourceAndCompletesItsLists) {
  const std::string source = R"({"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
      "store_dtype": "fp8", "ignored_layers": ["lm_head", "model.decoder.self_attn.o_proj"], "note": 1,
      "weight_block_size": [128, 128]})";
  HfQuantization q = Model(Dialect::kNative, {Module("model.layers.0.mlp.up_proj", Codec::kFp8Block)});
  const ordered_json config = Config(q, source);
  EXPECT_EQ(
      config.dump().find(R"({"activation_scheme":"dynamic","fmt":"e4m3","quant_method":"fp8","store_dtype":"fp8")"),
      0u);
  EXPECT_EQ(config["note"], 1);
  const ordered_json list = {"lm_head",
                             "model.decoder.self_attn.o_proj",
                             "model.layers.0.self_attn.q_proj",
                             "model.layers.1.mlp.gate",
                             "model.layers.1.mlp.experts.0.up_proj",
                             "model.layers.1.mlp.experts.1.up_proj"};
  EXPECT_EQ(config["ignored_layers"], list);
  EXPECT_EQ(config["modules_to_not_convert"], list);
  // What becomes quantized leaves the source's list.
  q = Model(Dialect::kNative, {Module("lm_head", Codec::kFp8Block)});
  EXPECT_EQ(Config(q, source)["ignored_layers"][0], "model.decoder.self_attn.o_proj");
}

TEST(NativeConfig, Mxfp4ComesAndGoes) {
  const std::string fp8 = R"({"quant_method": "fp8", "weight_block_size": [128, 128]})";
  const std::string mxfp4 =
      R"({"quant_method": "fp8", "store_dtype": "mxfp4", "mxfp4_block_size": 32, "weight_block_size": [128, 128]})";
  const HfQuantization to_mxfp4 = Model(Dialect::kNative, Experts(Codec::kMxfp4));
  EXPECT_EQ(Config(to_mxfp4, fp8)["store_dtype"], "mxfp4");
  EXPECT_EQ(Config(to_mxfp4, fp8)["mxfp4_block_size"], 32);
  const HfQuantization to_fp8 = Model(Dialect::kNative, Experts(Codec::kFp8Block));
  EXPECT_EQ(Config(to_fp8, mxfp4)["store_dtype"], "fp8");
  EXPECT_FALSE(Config(to_fp8, mxfp4).contains("mxfp4_block_size"));
  EXPECT_FALSE(Config(to_fp8, fp8).contains("store_dtype"));
}

TEST(NativeConfig, AnUnquantizedOrForeignSourceGetsTheFamilysForm) {
  HfQuantization q = Model(Dialect::kNative, Experts(Codec::kFp8Block));
  for (const char* source : {"", R"({"quant_method": "modelopt", "ignore": ["a"], "quant_algo": "NVFP4"})"}) {
    const ordered_json config = Config(q, source);
    EXPECT_EQ(config["activation_scheme"], "dynamic");
    EXPECT_EQ(config["fmt"], "e4m3");
    EXPECT_EQ(config["quant_method"], "fp8");
    EXPECT_EQ(config["weight_block_size"], ordered_json({128, 128}));
    EXPECT_FALSE(config.contains("ignore") || config.contains("quant_algo") || config.contains("scale_fmt"));
  }
  q.fp8_block_rows = 1;
  EXPECT_EQ(Config(q)["weight_block_size"], ordered_json({1, 128}));
}

TEST(NativeConfig, ScaleFmtSaysThatAllScalesArePowersOfTwo) {
  HfQuantization q = Model(Dialect::kNative, Experts(Codec::kFp8Block));
  q.quantized[0].power_of_two = true;
  EXPECT_FALSE(Config(q, R"({"quant_method": "fp8", "scale_fmt": "ue8m0"})").contains("scale_fmt"));
  q.quantized[1].power_of_two = true;
  EXPECT_EQ(Config(q)["scale_fmt"], "ue8m0");
}

TEST(ModelOptConfig, OneAlgorithmAndExactExclusions) {
  for (bool w4a4 : {false, true}) {
    const HfQuantization q = Model(Dialect::kModelOpt, Experts(Codec::kNvfp4, w4a4));
    const std::string algorithm = w4a4 ? "NVFP4" : "W4A16_NVFP4";
    const ordered_json hf = HfQuant(q);
    EXPECT_EQ(hf["producer"]["name"], "modelopt");
    const ordered_json quantization = {
        {"quant_algo", algorithm},
        {"kv_cache_quant_algo", nullptr},
        {"group_size", 16},
        {"exclude_modules",
         {"model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "model.layers.1.mlp.gate", "lm_head"}}};
    EXPECT_EQ(hf["quantization"], quantization);
    const ordered_json config = Config(q, R"({"quant_method": "fp8", "store_dtype": "fp8"})");
    EXPECT_EQ(config["quant_method"], "modelopt");
    EXPECT_EQ(config["quant_algo"], algorithm);
    EXPECT_EQ(config["ignore"], quantization["exclude_modules"]);
    EXPECT_EQ(config["producer"], hf["producer"]);
    EXPECT_FALSE(config.contains("store_dtype") || config.contains("kv_cache_scheme"));
    const ordered_json args = {{"dynamic", false}, {"num_bits", 4}, {"type", "float"}, {"group_size", 16}};
    const ordered_json& group = config["config_groups"]["group_0"];
    EXPECT_EQ(group["weights"], args);
    EXPECT_EQ(group.contains("input_activations"), w4a4);
    EXPECT_EQ(group["targets"], ordered_json::array({"Linear"}));
  }
  EXPECT_EQ(HfQuant(Model(Dialect::kModelOpt, Experts(Codec::kMxfp8)))["quantization"]["group_size"], 32);
  const ordered_json mxfp8 = Config(Model(Dialect::kModelOpt, Experts(Codec::kMxfp8)));
  EXPECT_EQ(mxfp8["quant_algo"], "MXFP8");
  EXPECT_FALSE(mxfp8.contains("config_groups"));
}

TEST(ModelOptConfig, MixturesListTheirLayers) {
  std::vector<QuantizedModule> modules = Experts(Codec::kNvfp4);
  modules.push_back(Module("model.layers.0.mlp.up_proj", Codec::kFp8Block));
  modules.push_back(Module("model.layers.0.self_attn.q_proj", Codec::kMxfp8));
  HfQuantization q = Model(Dialect::kModelOpt, modules);
  const ordered_json quantization = HfQuant(q)["quantization"];
  EXPECT_EQ(quantization["quant_algo"], "MIXED_PRECISION");
  EXPECT_EQ(quantization["group_size"], 16);
  const ordered_json layers = {{"model.layers.1.mlp.experts", {{"quant_algo", "W4A16_NVFP4"}, {"group_size", 16}}},
                               {"model.layers.0.mlp.up_proj", {{"quant_algo", "FP8_PB_WO"}, {"group_size", 128}}},
                               {"model.layers.0.self_attn.q_proj", {{"quant_algo", "MXFP8"}, {"group_size", 32}}}};
  EXPECT_EQ(quantization["quantized_layers"], layers);
  const ordered_json config = Config(q);
  EXPECT_EQ(config["quantized_layers"], layers);
  EXPECT_EQ(config["quant_algo"], "MIXED_PRECISION");
  EXPECT_EQ(config["ignore"], quantization["exclude_modules"]);
  EXPECT_EQ(config["ignore"], ordered_json({"model.layers.1.mlp.gate", "lm_head"}));
  EXPECT_EQ(config["config_groups"]["group_0"]["targets"], ordered_json::array({"model.layers.1.mlp.experts"}));
  EXPECT_EQ(config["config_groups"].size(), 3u);
  // W4A4 and W4A16 are a mixture too; experts that differ are named one by one.
  q = Model(Dialect::kModelOpt, Experts(Codec::kNvfp4));
  q.quantized[1].input_scale = true;
  const ordered_json one_by_one = HfQuant(q)["quantization"]["quantized_layers"];
  EXPECT_EQ(one_by_one.at("model.layers.1.mlp.experts.0.up_proj").at("quant_algo"), "W4A16_NVFP4");
  EXPECT_EQ(one_by_one.at("model.layers.1.mlp.experts.1.up_proj").at("quant_algo"), "NVFP4");
  // An expert that stays plain forbids the common name as well.
  q = Model(Dialect::kModelOpt,
            {Module("model.layers.1.mlp.experts.0.up_proj", Codec::kNvfp4), Module("lm_head", Codec::kMxfp8)});
  EXPECT_TRUE(HfQuant(q)["quantization"]["quantized_layers"].contains("model.layers.1.mlp.experts.0.up_proj"));
}

TEST(CompressedTensorsConfig, OneGroup) {
  HfQuantization q = Model(Dialect::kCompressedTensors, Experts(Codec::kNvfp4, true));
  const ordered_json config = Config(q);
  EXPECT_EQ(config["quant_method"], "compressed-tensors");
  EXPECT_EQ(config["format"], "nvfp4-pack-quantized");
  EXPECT_EQ(config["ignore"], ordered_json(q.unquantized));
  const ordered_json& group = config["config_groups"]["group_0"];
  EXPECT_EQ(group["targets"], ordered_json::array({"Linear"}));
  EXPECT_EQ(group["weights"]["strategy"], "tensor_group");
  EXPECT_EQ(group["weights"]["group_size"], 16);
  EXPECT_EQ(group["input_activations"]["dynamic"], "local");
  EXPECT_EQ(HfQuantConfig(q).value(), "");
  const auto format = [](Codec codec) {
    return Config(Model(Dialect::kCompressedTensors, Experts(codec)))["format"].get<std::string>();
  };
  EXPECT_EQ(format(Codec::kMxfp4), "mxfp4-pack-quantized");
  EXPECT_EQ(format(Codec::kMxfp8), "mxfp8-quantized");
  EXPECT_EQ(format(Codec::kFp8Block), "float-quantized");
  EXPECT_FALSE(Config(Model(Dialect::kCompressedTensors, Experts(Codec::kNvfp4)))["config_groups"]["group_0"].contains(
      "input_activations"));
}

TEST(CompressedTensorsConfig, SeveralGroupsNameTheirModulesExactly) {
  std::vector<QuantizedModule> modules = Experts(Codec::kNvfp4);
  modules.push_back(Module("model.layers.1.mlp.experts.0.down_proj", Codec::kNvfp4));
  modules.push_back(Module("model.layers.0.mlp.up_proj", Codec::kFp8Block));
  const ordered_json config = Config(Model(Dialect::kCompressedTensors, modules));
  EXPECT_EQ(config["format"], "mixed-precision");
  EXPECT_EQ(config["config_groups"]["group_0"]["targets"],
            ordered_json::array({"re:^model\\.layers\\.1\\.mlp\\.experts\\.\\d+\\.(down_proj|up_proj)$"}));
  EXPECT_EQ(config["config_groups"]["group_1"]["targets"], ordered_json::array({"model.layers.0.mlp.up_proj"}));
  EXPECT_EQ(config["config_groups"]["group_1"]["format"], "float-quantized");
  EXPECT_EQ(config["config_groups"]["group_1"]["weights"]["block_structure"], ordered_json({128, 128}));
}

TEST(QuantizationConfigs, NothingQuantizedNeedsNone) {
  for (Dialect dialect : {Dialect::kNative, Dialect::kModelOpt, Dialect::kCompressedTensors}) {
    const HfQuantization q = Model(dialect, {});
    EXPECT_EQ(QuantizationConfig(q, R"({"quant_method": "fp8"})").value(), "");
    EXPECT_EQ(HfQuantConfig(q).value(), "");
  }
}

TEST(QuantizationConfigs, WhatADialectLacksIsAUsageError) {
  const auto refused = [](Dialect dialect, Codec codec, uint32_t rows = 128) {
    HfQuantization q = Model(dialect, Experts(codec));
    q.fp8_block_rows = rows;
    const auto config = QuantizationConfig(q, "");
    return !config.ok() && config.error().code == ErrorCode::kUsage &&
           (dialect != Dialect::kModelOpt || !HfQuantConfig(q).ok());
  };
  EXPECT_TRUE(refused(Dialect::kNative, Codec::kNvfp4));
  EXPECT_TRUE(refused(Dialect::kNative, Codec::kMxfp8));
  EXPECT_TRUE(refused(Dialect::kModelOpt, Codec::kMxfp4));
  EXPECT_TRUE(refused(Dialect::kModelOpt, Codec::kFp8Block, 1));
  EXPECT_FALSE(refused(Dialect::kModelOpt, Codec::kFp8Block));
}

}  // namespace
}  // namespace mimo::hf_quant_test
