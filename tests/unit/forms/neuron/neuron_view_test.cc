// Neuron's names both ways (reference target-layouts.md 7.1), and a preprocessed directory shown as a checkpoint.
#include "lib/forms/neuron/neuron_view.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "lib/forms/neuron/neuron_names.h"
#include "lib/forms/registry/registry.h"
#include "lib/model/family.h"
#include "lib/model/inventory.h"

namespace mimo::neuron_view_test {
namespace {

const Family& Mimo() {
  return *Family::Get("mimo_v2").value();
}

TensorId Id(Role role, int32_t layer = -1, Part part = Part::kWeight) {
  TensorId id;
  id.role = role;
  id.layer = layer;
  id.part = part;
  return id;
}

TEST(NeuronNames, OfTheReference) {
  const std::vector<std::pair<TensorId, std::string>> names = {
      {Id(Role::kEmbed), "embed_tokens.weight"},
      {Id(Role::kLmHead), "lm_head.weight"},
      {Id(Role::kFinalNorm), "norm.weight"},
      {Id(Role::kInputNorm, 3), "layers.3.input_layernorm.weight"},
      {Id(Role::kPostAttentionNorm, 3), "layers.3.post_attention_layernorm.weight"},
      {Id(Role::kAttnQ, 3), "layers.3.self_attn.q_proj.weight"},
      {Id(Role::kAttnK, 47), "layers.47.self_attn.k_proj.weight"},
      {Id(Role::kAttnV, 0, Part::kRowScale), "layers.0.self_attn.v_proj.scale"},
      {Id(Role::kAttnO, 3), "layers.3.self_attn.o_proj.weight"},
      {Id(Role::kAttnSink, 3), "layers.3.self_attn.attention_sink_bias"},
      {Id(Role::kMlpGate, 0), "layers.0.mlp.gate_proj.weight"},
      {Id(Role::kMlpDown, 0, Part::kRowScale), "layers.0.mlp.down_proj.scale"},
      {Id(Role::kRouter, 3), "layers.3.mlp.router.linear_router.weight"},
      {Id(Role::kRouterBias, 3), "layers.3.mlp.router.e_score_correction_bias"}};
  for (const auto& [id, name] : names) {
    EXPECT_EQ(NeuronName(Mimo(), id), name);
    const auto back = IdOfNeuronName(Mimo(), name);
    ASSERT_TRUE(back.has_value()) << name;
    EXPECT_EQ(*back, id) << name;
    EXPECT_FALSE(StackOfNeuronName(Mimo(), name).has_value());
  }
}

TEST(NeuronNames, WhatTheFormDoesNotHoldHasNone) {
  TensorId mtp = Id(Role::kAttnO, 0);
  mtp.mtp = true;
  TensorId expert = Id(Role::kExpertUp, 1);
  expert.expert = 0;
  for (const TensorId& id : {mtp, expert, Id(Role::kAttnQkv, 1), Id(Role::kVision), Id(Role::kUnknown)})
    EXPECT_EQ(NeuronName(Mimo(), id), "");
  for (const char* name :
       {"", "layers.3", "layers.3.self_attn.qkv_proj.weight", "mtp.layers.0.enorm.weight", "visual.x",
        "layers.3.mlp.experts.0.up_proj.weight", "layers.x.input_layernorm.weight", "layers.3.self_attn.q_proj.bias"})
    EXPECT_FALSE(IdOfNeuronName(Mimo(), name).has_value()) << name;
}

TEST(NeuronNames, StacksAndFiles) {
  EXPECT_EQ(NeuronStackName(Mimo(), true, 7, Part::kWeight), "layers.7.mlp.expert_mlps.mlp_op.gate_up_proj.weight");
  EXPECT_EQ(NeuronStackName(Mimo(), false, 7, Part::kRowScale), "layers.7.mlp.expert_mlps.mlp_op.down_proj.scale");
  for (const bool gate_up : {true, false}) {
    for (const Part part : {Part::kWeight, Part::kRowScale}) {
      const auto stack = StackOfNeuronName(Mimo(), NeuronStackName(Mimo(), gate_up, 12, part));
      ASSERT_TRUE(stack.has_value());
      EXPECT_EQ(stack->gate_up, gate_up);
      EXPECT_EQ(stack->layer, 12);
      EXPECT_EQ(stack->part, part);
    }
  }
  for (const char* name :
       {"layers.7.mlp.expert_mlps.mlp_op.up_proj.weight", "layers.-1.mlp.expert_mlps.mlp_op.down_proj.scale",
        "layers..mlp.expert_mlps.mlp_op.down_proj.scale", "model.layers.7.mlp.expert_mlps.mlp_op.down_proj.scale"})
    EXPECT_FALSE(StackOfNeuronName(Mimo(), name).has_value()) << name;
  EXPECT_EQ(FileOfLayer(false, 0), "model_layer0.safetensors");
  EXPECT_EQ(FileOfLayer(false, -1), "model_extras.safetensors");
}

constexpr int64_t kHidden = 64, kMoe = 32, kExperts = 3;

// Layer 0 global and dense, layer 1 windowed with experts.
Catalogue MakeNeuron(bool fp8) {
  nlohmann::json config = {{"model_type", "mimo_v2"},
                           {"hidden_size", kHidden},
                           {"num_hidden_layers", 2},
                           {"vocab_size", 5},
                           {"intermediate_size", 36},
                           {"moe_intermediate_size", kMoe},
                           {"n_routed_experts", kExperts},
                           {"num_attention_heads", 2},
                           {"num_key_value_heads", 1},
                           {"swa_num_key_value_heads", 2},
                           {"head_dim", 6},
                           {"v_head_dim", 4},
                           {"hybrid_layer_pattern", {0, 1}},
                           {"moe_layer_freq", {0, 1}},
                           {"attention_projection_layout", "fused_qkv"},
                           {"quantization_config", {{"quant_method", "fp8"}, {"weight_block_size", {2, 32}}}},
                           {"mimo_layout",
                            {{"version", 1},
                             {"qkv", "split"},
                             {"grid", "independent"},
                             {"chunks", 1},
                             {"kv_heads", 1},
                             {"swa_kv_heads", 2},
                             {"form", "nxdi"},
                             {"expert_codes", "halve"}}}};
  Catalogue c;
  c.config.family = Family::Get("mimo_v2").value();
  c.root = "/neuron";
  auto parsed = ParseModelConfig(config.dump(), "/neuron/config.json");
  EXPECT_TRUE(parsed.ok()) << parsed.error().Message();
  c.config = std::move(parsed).value();
  c.table = &Mimo().table;
  c.files.push_back({"model.safetensors", 0, 0, {}, {}});
  const auto add = [&](const std::string& name, DType dtype, std::vector<int64_t> shape) {
    StoredArray a;
    a.name = name;
    a.dtype = dtype;
    a.bytes = BitsPerElement(dtype) / 8;
    for (const int64_t n : shape) a.bytes *= static_cast<uint64_t>(n);
    a.shape = std::move(shape);
    c.arrays.push_back(std::move(a));
  };
  const DType codes = fp8 ? DType::kF8E4M3 : DType::kBF16;
  const auto linear = [&](const std::string& name, int64_t rows, int64_t cols) {
    add(name + ".weight", codes, {rows, cols});
    if (fp8) add(name + ".scale", DType::kF32, {rows, 1});
  };
  for (const char* name : {"embed_tokens.weight", "lm_head.weight"}) add(name, DType::kBF16, {5, kHidden});
  add("norm.weight", DType::kBF16, {kHidden});
  for (const int64_t layer : {0, 1}) {
    const std::string p = "layers." + std::to_string(layer) + ".";
    const int64_t kv = layer + 1;
    add(p + "input_layernorm.weight", DType::kBF16, {kHidden});
    add(p + "post_attention_layernorm.weight", DType::kBF16, {kHidden});
    linear(p + "self_attn.q_proj", 12, kHidden);
    linear(p + "self_attn.k_proj", 6 * kv, kHidden);
    linear(p + "self_attn.v_proj", 4 * kv, kHidden);
    add(p + "self_attn.o_proj.weight", DType::kBF16, {kHidden, 8});
  }
  linear("layers.0.mlp.gate_proj", 36, kHidden);
  linear("layers.0.mlp.up_proj", 36, kHidden);
  linear("layers.0.mlp.down_proj", kHidden, 36);
  add("layers.1.mlp.router.linear_router.weight", DType::kF32, {kExperts, kHidden});
  add("layers.1.mlp.router.e_score_correction_bias", DType::kF32, {kExperts});
  const std::string stack = "layers.1.mlp.expert_mlps.mlp_op.";
  add(stack + "gate_up_proj.weight", codes, {kExperts, kHidden, 2 * kMoe});
  add(stack + "down_proj.weight", codes, {kExperts, kMoe, kHidden});
  if (fp8) {
    add(stack + "gate_up_proj.scale", DType::kF32, {kExperts, kHidden / 32, kMoe});  // blocks of 2 x 32, turned over
    add(stack + "down_proj.scale", DType::kF32, {kExperts, kMoe / 32, kHidden / 2});
  }
  std::sort(c.arrays.begin(), c.arrays.end(), [](const auto& x, const auto& y) { return x.name < y.name; });
  for (uint32_t i = 0; i < c.arrays.size(); ++i) c.by_name.emplace(c.arrays[i].name, i);
  return c;
}

TEST(NeuronView, ExpertsComeOutOfTheirStacksTurnedOver) {
  for (const bool fp8 : {true, false}) {
    const Catalogue stored = MakeNeuron(fp8);
    EXPECT_EQ(FormOfStored(stored).kind(), FormKind::kNxdi);
    const auto made = ViewOfNeuron(stored);
    ASSERT_TRUE(made.ok()) << made.error().Message();
    const View& view = made.value();
    EXPECT_EQ(view.form, FormKind::kNxdi);
    EXPECT_EQ(view.chunks, 0);
    EXPECT_TRUE(view.halved_codes);
    std::vector<std::vector<int>> covered;
    for (const StoredArray& array : stored.arrays)
      covered.emplace_back(static_cast<size_t>(array.rows() * (array.shape.empty() ? 1 : array.shape.back())), 0);
    for (size_t i = 0; i < view.catalogue.arrays.size(); ++i) {
      const StoredArray& shown = view.catalogue.arrays[i];
      ASSERT_EQ(view.fragments[i].size(), 1u) << shown.name;
      const Fragment& f = view.fragments[i][0];
      EXPECT_EQ(f.rows, shown.rows());
      EXPECT_EQ(f.cols, shown.shape.empty() ? 1 : shown.shape.back());
      EXPECT_TRUE(f.row == 0 && f.col == 0);
      const StoredArray& array = stored.arrays[f.array];
      const int64_t width = array.shape.back();
      EXPECT_EQ(view.transposed[i] != 0, shown.id.expert >= 0) << shown.name;
      const bool scales = shown.id.part != Part::kWeight;
      for (int64_t r = 0; r < f.rows; ++r)
        for (int64_t c = 0; c < f.cols; ++c) {
          int64_t row = r, col = c;
          if (shown.id.expert >= 0) {  // stack[expert][column][row], gate before up
            const bool down = shown.name.find("down_proj") != std::string::npos;
            row = shown.id.expert * (down ? kMoe : kHidden) / (scales ? 32 : 1) + c;
            col = (shown.name.find("up_proj") != std::string::npos ? kMoe / (scales ? 2 : 1) : 0) + r;
          }
          const bool turned = view.transposed[i] != 0;
          ASSERT_EQ(f.stored_row + (turned ? c : r), row) << shown.name;
          ASSERT_EQ(f.stored_col + (turned ? r : c), col) << shown.name;
          ++covered[f.array][static_cast<size_t>(row * width + col)];
        }
    }
    for (const auto& array : covered)
      for (const int times : array) ASSERT_EQ(times, 1);
    const auto inventory = TakeInventory(view.catalogue);
    ASSERT_TRUE(inventory.ok()) << inventory.error().Message();
    EXPECT_FALSE(inventory.value().fused);
    EXPECT_EQ(inventory.value().mtp_layers, 0);
    EXPECT_FALSE(inventory.value().quantized_attention);  // a scale per row is no grid of blocks
    EXPECT_EQ(view.catalogue.config.projection_layout, "");
    for (const Weight& w : inventory.value().weights) {
      const std::string& name = view.catalogue.arrays[w.array].name;
      const bool linear = w.id.role == Role::kAttnQ || w.id.role == Role::kAttnK || w.id.role == Role::kAttnV ||
                          w.id.role == Role::kMlpGate || w.id.role == Role::kMlpUp || w.id.role == Role::kMlpDown;
      EXPECT_EQ(w.per_row(), fp8 && linear) << name;
      EXPECT_EQ(w.storage == Storage::kFp8Block, fp8 && (linear || w.id.expert >= 0)) << name;
    }
  }
}

TEST(NeuronView, RescaledCodesAreNotDoubled) {
  Catalogue stored = MakeNeuron(true);
  stored.config.marker->expert_codes = ExpertCodes::kRescale;
  EXPECT_FALSE(ViewOfNeuron(stored).value().halved_codes);
  stored.config.marker.reset();  // evidence: the names of stacks
  EXPECT_EQ(FormOfStored(stored).kind(), FormKind::kNxdi);
  EXPECT_FALSE(ViewOfNeuron(stored).value().halved_codes);
}

TEST(NeuronView, StacksOfAnotherModelAndForeignNamesAreRefused) {
  const std::string stack = "layers.1.mlp.expert_mlps.mlp_op.gate_up_proj.weight";
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{kExperts + 1, kHidden, 2 * kMoe},
                                            {kExperts, kHidden, 2 * kMoe + 1},
                                            {kExperts * kHidden, 2 * kMoe}}) {
    Catalogue stored = MakeNeuron(true);
    stored.arrays[stored.by_name.at(stack)].shape = shape;
    const auto view = ViewOfNeuron(stored);
    ASSERT_FALSE(view.ok());
    EXPECT_EQ(view.error().code, ErrorCode::kBadInput);
    EXPECT_EQ(view.error().tensor, stack);
  }
  Catalogue stored = MakeNeuron(true);
  stored.arrays[stored.by_name.at("norm.weight")].name = "model.layers.0.self_attn.qkv_proj.weight";
  const auto view = ViewOfNeuron(stored);
  ASSERT_FALSE(view.ok());
  EXPECT_EQ(view.error().tensor, "model.layers.0.self_attn.qkv_proj.weight");
}

}  // namespace
}  // namespace mimo::neuron_view_test
