// MTP layers of catalogues that are written here: each fault by itself, and what an inventory leaves out of them.
#include "lib/model/mtp_layers.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "lib/model/family.h"

namespace mimo::mtp_layers_test {
namespace {

// One full-attention layer; windows have twice the KV heads, and sinks.
constexpr char kConfig[] =
    R"({"model_type": "mimo_v2", "hidden_size": 128, "num_hidden_layers": 1, "vocab_size": 4, "intermediate_size": 192,
        "num_attention_heads": 2, "num_key_value_heads": 1, "swa_num_attention_heads": 2, "swa_num_key_value_heads": 2,
        "head_dim": 192, "v_head_dim": 128, "swa_head_dim": 192, "swa_v_head_dim": 128,
        "add_swa_attention_sink_bias": true, "hybrid_layer_pattern": [0], "moe_layer_freq": [0]})";

struct Stored {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
};

class MtpLayers : public ::testing::Test {
 protected:
  void SetUp() override { Fill(/*fused=*/true, /*layers=*/2); }

  // The model in BF16.
  void Fill(bool fused, int layers) {
    arrays_.clear();
    const ModelConfig config = ParseModelConfig(kConfig, "c").value();
    const std::vector<ExpectedTensor> expected =
        ExpectedTensors(*ModelTable::Get("mimo_v2").value(), config, fused, layers).value();
    for (const ExpectedTensor& tensor : expected) arrays_.push_back({tensor.name, DType::kBF16, tensor.shape});
  }
  Stored& At(const std::string& name) {
    return *std::find_if(arrays_.begin(), arrays_.end(), [&](const Stored& a) { return a.name == name; });
  }
  void Drop(const std::string& name) {
    std::erase_if(arrays_, [&](const Stored& a) { return a.name == name; });
  }
  const Catalogue& Made() {
    catalogue_ = {};
    catalogue_.root = "ckpt";
    catalogue_.config = ParseModelConfig(kConfig, "ckpt/config.json").value();
    catalogue_.table = ModelTable::Get("mimo_v2").value();
    catalogue_.files.push_back({"model.safetensors", 0, 0, {}, {}});
    for (const Stored& stored : arrays_) {
      StoredArray array;
      array.name = stored.name;
      array.dtype = stored.dtype;
      array.shape = stored.shape;
      array.id = catalogue_.table->Identify(stored.name);
      catalogue_.arrays.push_back(std::move(array));
    }
    EXPECT_TRUE(SortArrays(&catalogue_).ok());
    return catalogue_;
  }
  std::vector<MtpLayer> Find() {
    auto layers = FindMtpLayers(Made());
    EXPECT_TRUE(layers.ok());
    return layers.ok() ? *layers : std::vector<MtpLayer>();
  }
  // "KIND TENSOR EXPECTED FOUND" of each problem of layer `number`.
  std::vector<std::string> Problems(int32_t number = 0) {
    std::vector<std::string> lines;
    for (const MtpLayer& layer : Find())
      for (const MtpProblem& p : layer.problems)
        if (layer.number == number)
          lines.push_back(std::string(WordOf(kMtpProblems, p.kind)) + " " + p.tensor + " " + p.expected + " " +
                          p.found);
    return lines;
  }

  using Lines = std::vector<std::string>;
  const std::string stem_ = "model.mtp.layers.0.";
  std::vector<Stored> arrays_;
  Catalogue catalogue_;
};

TEST_F(MtpLayers, WholeOnes) {
  for (const bool fused : {true, false}) {
    Fill(fused, 3);
    const std::vector<MtpLayer> layers = Find();
    ASSERT_EQ(layers.size(), 3u);
    for (const MtpLayer& layer : layers) {
      EXPECT_TRUE(layer.whole() && layer.released());
      EXPECT_EQ(layer.fused, fused);
      EXPECT_EQ(layer.needs, fused ? 12u : 14u);
      EXPECT_EQ(layer.arrays.size(), layer.needs);
      EXPECT_TRUE(layer.unknown.empty() && layer.quantized.empty());
    }
  }
  Fill(true, 0);
  EXPECT_TRUE(Find().empty());
}

TEST_F(MtpLayers, AnyTensorMayBeMissing) {
  const std::vector<Stored> all = arrays_;
  for (const Stored& one : all) {
    if (!one.name.starts_with(stem_)) continue;
    arrays_ = all;
    Drop(one.name);
    const Lines problems = Problems();
    ASSERT_EQ(problems.size(), 1u) << one.name;
    EXPECT_TRUE(problems[0].starts_with("missing " + one.name + " ")) << problems[0];
    EXPECT_TRUE(Problems(1).empty());
  }
}

TEST_F(MtpLayers, ShapesOfFullAttentionAreToldFromOthers) {
  // Q 2 x 192; windows 2 x (192 + 128), full attention 1 x.
  At(stem_ + "self_attn.qkv_proj.weight").shape = {704, 128};
  EXPECT_EQ(Problems(), Lines{"geometry " + stem_ + "self_attn.qkv_proj.weight [1024, 128] [704, 128]"});
  At(stem_ + "self_attn.qkv_proj.weight").shape = {1000, 128};
  EXPECT_EQ(Problems(), Lines{"shape " + stem_ + "self_attn.qkv_proj.weight [1024, 128] [1000, 128]"});
}

TEST_F(MtpLayers, AttentionThatIsStoredOtherwiseThanTheDecoders) {
  std::vector<Stored> split;
  for (const char* letter : {"q", "k", "v"})
    split.push_back(
        {stem_ + "self_attn." + letter + "_proj.weight", DType::kBF16, {letter[0] == 'v' ? 256 : 384, 128}});
  Drop(stem_ + "self_attn.qkv_proj.weight");
  arrays_.insert(arrays_.end(), split.begin(), split.end());
  EXPECT_EQ(Problems(), Lines{"projection  fused QKV, as the decoder's split Q, K, V"});
}

TEST_F(MtpLayers, CodesNeedScales) {
  At(stem_ + "mlp.up_proj.weight").dtype = DType::kF8E4M3;
  ASSERT_EQ(Problems().size(), 1u);
  EXPECT_TRUE(Problems()[0].starts_with("weight " + stem_ + "mlp.up_proj.weight ")) << Problems()[0];
  arrays_.push_back({stem_ + "mlp.up_proj.weight_scale_inv", DType::kF32, {2, 1}});
  EXPECT_TRUE(Problems().empty());
  At(stem_ + "enorm.weight").dtype = DType::kI32;
  EXPECT_EQ(Problems().size(), 1u);
}

TEST_F(MtpLayers, WhatReleasesHaveUnquantized) {
  At(stem_ + "eh_proj.weight").dtype = DType::kF8E4M3;
  arrays_.push_back({stem_ + "eh_proj.weight_scale_inv", DType::kF32, {1, 2}});
  At(stem_ + "mlp.down_proj.weight").dtype = DType::kF8E4M3;
  arrays_.push_back({stem_ + "mlp.down_proj.weight_scale_inv", DType::kF32, {1, 2}});
  const std::vector<MtpLayer> layers = Find();
  EXPECT_TRUE(layers[0].whole());
  ASSERT_EQ(layers[0].quantized.size(), 1u);
  EXPECT_EQ(catalogue_.arrays[layers[0].quantized[0]].name, stem_ + "eh_proj.weight");
}

TEST_F(MtpLayers, OtherNamesAreJudgedAlike) {
  for (Stored& one : arrays_)
    if (one.name.starts_with(stem_)) one.name = "model.layers.1." + one.name.substr(stem_.size());
  std::vector<MtpLayer> layers = Find();
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_EQ(Family::Get("mimo_v2").value()->mtp.conventions[layers[0].convention].id, "decoder");
  EXPECT_TRUE(layers[0].whole() && !layers[0].released() && layers[1].released());
  Drop("model.layers.1.hnorm.weight");
  EXPECT_EQ(Problems(), Lines{"missing model.mtp.layers.0.hnorm.weight [128] nothing"});
}

TEST_F(MtpLayers, StrangersAreNoFault) {
  arrays_.push_back({stem_ + "mlp.gate.weight", DType::kBF16, {2, 128}});
  const std::vector<MtpLayer> layers = Find();
  EXPECT_TRUE(layers[0].whole());
  ASSERT_EQ(layers[0].unknown.size(), 1u);
  EXPECT_EQ(catalogue_.arrays[layers[0].unknown[0]].name, stem_ + "mlp.gate.weight");
}

TEST_F(MtpLayers, AnInventoryLeavesOutThoseThatAreNotWhole) {
  Fill(true, 3);
  Drop("model.mtp.layers.1.enorm.weight");
  EXPECT_FALSE(TakeInventory(Made()).ok());
  Result<Inventory> inventory = TakeInventory(catalogue_, {.without_mtp = true});
  ASSERT_TRUE(inventory.ok()) << inventory.error().Message();
  EXPECT_EQ(inventory->mtp_layers, 3);
  EXPECT_EQ(inventory->left_out.size(), 11u);
  for (const uint32_t array : inventory->left_out)
    EXPECT_TRUE(catalogue_.arrays[array].name.starts_with("model.mtp.layers.1."));
  std::vector<int32_t> attention;
  for (const AttentionWeights& a : inventory->attention)
    if (a.mtp) attention.push_back(a.layer);
  EXPECT_EQ(attention, (std::vector<int32_t>{0, 2}));
  // Other layers are as strict as ever.
  Drop("model.norm.weight");
  EXPECT_FALSE(TakeInventory(Made(), {.without_mtp = true}).ok());
}

}  // namespace
}  // namespace mimo::mtp_layers_test
