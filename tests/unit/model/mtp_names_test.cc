// Names of MTP layers: the release's, and those that other projects give them.
#include <gtest/gtest.h>

#include "lib/model/family.h"

namespace mimo::mtp_names_test {
namespace {

const MtpNaming& Naming() {
  return Family::Get("mimo_v2").value()->mtp;
}

std::string Convention(const std::string& tensor) {
  const auto name = ReadMtpName(Naming(), tensor, 48);
  return name ? Naming().conventions[name->convention].id + " " + std::to_string(name->layer) : "";
}

std::vector<std::string> Released(const std::string& tensor) {
  const auto name = ReadMtpName(Naming(), tensor, 48);
  return name ? name->released : std::vector<std::string>();
}

TEST(MtpNames, EveryConvention) {
  EXPECT_EQ(Convention("model.mtp.layers.0.enorm.weight"), "released 0");
  EXPECT_EQ(Convention("model.layers.48.enorm.weight"), "decoder 0");
  EXPECT_EQ(Convention("model.layers.50.eh_proj.weight"), "decoder 2");
  EXPECT_EQ(Convention("mtp.layers.1.mtp_model_layer.self_attention.linear_qkv.weight"), "megatron 1");
  EXPECT_EQ(Convention("mtp.layers.1.transformer_layer.mlp.linear_fc2.weight"), "megatron 1");
  EXPECT_EQ(Convention("model.mtp_layers.2.hnorm.weight"), "mtp-layers 2");
}

TEST(MtpNames, WhatIsOfNoMtpLayer) {
  for (const char* name : {"model.layers.47.self_attn.o_proj.weight", "model.layers.0.enorm.weight",
                           "model.norm.weight", "model.mtp.layers.x.enorm.weight", "model.mtp.layers.01.enorm.weight",
                           "model.mtp.layers.1", "model.mtp.layers.1.", "model.mtp.layers.-1.enorm.weight",
                           "model.mtp.layers.99999999999.enorm.weight", "model.mtp.layers.", ""})
    EXPECT_EQ(Convention(name), "") << name;
}

TEST(MtpNames, StandForThoseOfTheRelease) {
  using Names = std::vector<std::string>;
  const std::string stem = "model.mtp.layers.1.";
  EXPECT_EQ(Released("model.layers.49.self_attn.qkv_proj.weight_scale_inv"),
            Names{stem + "self_attn.qkv_proj.weight_scale_inv"});
  EXPECT_EQ(Released("model.layers.49.post_attention_layernorm.weight"), Names{stem + "pre_mlp_layernorm.weight"});
  EXPECT_EQ(Released("model.layers.49.shared_head.norm.weight"), Names{stem + "final_layernorm.weight"});
  EXPECT_EQ(Released("mtp.layers.1.mtp_model_layer.mlp.linear_fc1.weight"),
            (Names{stem + "mlp.gate_proj.weight", stem + "mlp.up_proj.weight"}));
  EXPECT_EQ(Released("mtp.layers.1.transformer_layer.self_attention.core_attention.softmax_offset"),
            Names{stem + "self_attn.attention_sink_bias"});
  EXPECT_EQ(Released("mtp.layers.1.eh_proj.weight"), Names{stem + "eh_proj.weight"});
}

TEST(MtpNames, TheTableIsWhole) {
  EXPECT_EQ(Naming().released_layers, 3);
  ASSERT_FALSE(Naming().conventions.empty());
  EXPECT_EQ(Naming().conventions.front().id, "released");
}

}  // namespace
}  // namespace mimo::mtp_names_test
