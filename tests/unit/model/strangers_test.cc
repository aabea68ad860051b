#include "lib/model/strangers.h"

#include <gtest/gtest.h>

namespace mimo::strangers_test {
namespace {

TEST(Strangers, AreWhatTheirNamesSay) {
  for (const auto& [name, id] :
       {std::pair("base_model.model.model.layers.0.self_attn.q_proj.weight", "unknown.lora"),
        std::pair("model.layers.0.mlp.up_proj.lora_A.default.weight", "unknown.lora"),
        std::pair("decoder.layers.0.self_attention.linear_qkv.adapter.linear_in.weight", "unknown.lora"),
        std::pair("model.layers.0.self_attn.k_norm.weight", "unknown.qk_norm"),
        std::pair("decoder.layers.0.self_attention.q_layernorm.weight", "unknown.qk_norm"),
        std::pair("model.layers.1.mlp.shared_experts.up_proj.weight", "unknown.shared_expert"),
        std::pair("model.layers.1.self_attn.q_proj.bias", "unknown.bias"),
        std::pair("model.rotary_emb.inv_freq", "unknown.buffer"),
        std::pair("model.layers.1.self_attn.k_proj.k_scale", "unknown.cache_scale"),
        std::pair("model.layers.1.xlora_Ay.weight", "unknown.tensor"), std::pair("", "unknown.tensor")}) {
    const Stranger* found = FindStranger(name);
    ASSERT_NE(found, nullptr);
    EXPECT_EQ(found->id, id) << name;
  }
}

TEST(Strangers, AreCountedByKind) {
  const std::vector<StrangerCount> counts = CountStrangers({"odd", "a.bias", "a.lora_A.weight", "b.lora_B.weight"});
  ASSERT_EQ(counts.size(), 3u);
  EXPECT_EQ(counts[0].kind->id, "unknown.lora");
  EXPECT_EQ(counts[0].count, 2u);
  EXPECT_EQ(counts[0].example, "a.lora_A.weight");
  EXPECT_EQ(counts[1].kind->id, "unknown.bias");
  EXPECT_EQ(counts[2].kind->id, "unknown.tensor");
}

}  // namespace
}  // namespace mimo::strangers_test
