// Small checkpoints made in memory, of any heads, layout and codec: catalogues without files.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lib/layout/decide.h"
#include "lib/model/inventory.h"
#include "lib/plan/plan.h"

namespace mimo::made {

struct Model {
  int64_t heads = 64, kv = 4, swa_kv = 8, head_dim = 192, v_head_dim = 128, block = 128;
  int64_t hidden = 256, vocab = 512, intermediate = 4096, moe_intermediate = 2048, experts = 8;
  std::vector<int> windowed = {0, 1}, moe = {0, 1};
  int mtp = 0;
  QkvLayout layout = {QkvKind::kFused, 4};
  bool fp8 = true;  // attention and dense layers
  Storage expert_storage = Storage::kFp8Block;
  std::optional<double> value_scale;
  DType router = DType::kF32;
  std::string router_dtype;  // what config.json says of it
  bool tower = false;
};

// Flash with half of the query heads and every dimension of a head and a block a quarter: 192:128:128 rows are
// 48:32:32.
inline Model Quarter() {
  Model m;
  m.heads = 32;
  m.head_dim = 48;
  m.v_head_dim = 32;
  m.block = 32;
  m.hidden = 64;
  m.vocab = 100;
  m.intermediate = 256;
  m.moe_intermediate = 256;
  m.mtp = 1;
  return m;
}

inline nlohmann::json ConfigOf(const Model& m) {
  nlohmann::json config = {{"model_type", "mimo_v2"},
                           {"architectures", {"MiMoV2ForCausalLM"}},
                           {"hidden_size", m.hidden},
                           {"num_hidden_layers", m.windowed.size()},
                           {"vocab_size", m.vocab},
                           {"intermediate_size", m.intermediate},
                           {"moe_intermediate_size", m.moe_intermediate},
                           {"n_routed_experts", m.experts},
                           {"num_attention_heads", m.heads},
                           {"num_key_value_heads", m.kv},
                           {"swa_num_attention_heads", m.heads},
                           {"swa_num_key_value_heads", m.swa_kv},
                           {"head_dim", m.head_dim},
                           {"v_head_dim", m.v_head_dim},
                           {"swa_head_dim", m.head_dim},
                           {"swa_v_head_dim", m.v_head_dim},
                           {"hybrid_layer_pattern", m.windowed},
                           {"moe_layer_freq", m.moe},
                           {"add_swa_attention_sink_bias", true},
                           {"torch_dtype", "bfloat16"}};
  if (m.layout.fused()) config["attention_projection_layout"] = "fused_qkv";
  if (m.fp8 || m.expert_storage != Storage::kPlain) {
    config["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {m.block, m.block}}};
    if (m.expert_storage == Storage::kMxfp4) config["quantization_config"]["store_dtype"] = "mxfp4";
  }
  if (m.value_scale) config["attention_value_scale"] = *m.value_scale;
  if (!m.router_dtype.empty()) config["moe_router_dtype"] = m.router_dtype;
  if (m.tower) config["vision_config"] = {{"depth", 1}};
  return config;
}

inline int64_t Up(int64_t n, int64_t d) {
  return (n + d - 1) / d;
}

inline void SortArrays(Catalogue* c) {
  std::sort(c->arrays.begin(), c->arrays.end(), [](const auto& x, const auto& y) { return x.name < y.name; });
  c->by_name.clear();
  for (uint32_t i = 0; i < c->arrays.size(); ++i) c->by_name.emplace(c->arrays[i].name, i);
}

// What is declared is what is stored: modules of layers without scales are in the ignore list.
inline void DeclareUnquantized(const Model& m, Catalogue* c) {
  nlohmann::json config = ConfigOf(m);
  for (const StoredArray& a : c->arrays)
    if (a.dtype == DType::kBF16 && a.shape.size() == 2 && a.id.layer >= 0 && a.id.role != Role::kRouter)
      config["quantization_config"]["ignored_layers"].push_back(a.name.substr(0, a.name.rfind('.')));
  auto parsed = ParseModelConfig(config.dump(), "/checkpoint/config.json");
  EXPECT_TRUE(parsed.ok()) << parsed.error().Message();
  c->config = std::move(parsed).value();
}

inline Catalogue Make(const Model& m) {
  Catalogue c;
  c.root = "/checkpoint";
  auto parsed = ParseModelConfig(ConfigOf(m).dump(), "/checkpoint/config.json");
  EXPECT_TRUE(parsed.ok()) << parsed.error().Message();
  c.config = std::move(parsed).value();
  c.table = ModelTable::Get("mimo_v2").value();
  for (const char* name : {"model_experts.safetensors", "model_mtp.safetensors", "model_rest.safetensors"}) {
    CatalogueFile file;
    file.name = name;
    c.files.push_back(file);
  }
  if (m.layout.fused()) c.index.tp_size = m.layout.chunks;
  const auto add = [&](const std::string& name, DType dtype, std::vector<int64_t> shape) {
    StoredArray a;
    a.name = name;
    a.dtype = dtype;
    a.shape = std::move(shape);
    a.id = c.table->Identify(name);
    a.file = a.id.mtp ? 1 : a.id.expert >= 0 ? 0 : 2;
    a.bytes = BitsPerElement(dtype) / 8;
    for (const int64_t n : a.shape) a.bytes *= static_cast<uint64_t>(n);
    a.begin = c.files[a.file].bytes;
    c.files[a.file].bytes += a.bytes;
    c.arrays.push_back(std::move(a));
  };
  const auto expected = ExpectedTensors(*c.table, c.config, m.layout.fused(), m.mtp);
  EXPECT_TRUE(expected.ok());
  for (const ExpectedTensor& t : expected.value()) {
    const std::string& kind = t.rule->storage;
    const bool expert = kind == "expert";
    if (kind == "f32" || kind == "router") {
      add(t.name, kind == "router" ? m.router : DType::kF32, t.shape);
    } else if (expert && m.expert_storage == Storage::kMxfp4) {
      add(t.name, DType::kU8, {t.shape[0], t.shape[1] / 2});
      add(t.name + "_scale", DType::kU8, {t.shape[0], t.shape[1] / 32});
    } else if (expert ? m.expert_storage == Storage::kFp8Block : kind == "linear" && m.fp8) {
      add(t.name, DType::kF8E4M3, t.shape);
      int64_t scale_rows = Up(t.shape[0], m.block);
      const QkvMap map = BuildQkvMap(m.layout, c.config.attention_of(t.id.layer, t.id.mtp), m.block);
      if (t.id.role == Role::kAttnQkv || t.id.role == Role::kAttnQ) scale_rows = map.scale_rows[0];
      if (t.id.role == Role::kAttnK) scale_rows = map.scale_rows[1];
      if (t.id.role == Role::kAttnV) scale_rows = map.scale_rows[2];
      add(t.name + "_scale_inv", DType::kF32, {scale_rows, Up(t.shape[1], m.block)});
    } else {
      add(t.name, DType::kBF16, t.shape);
    }
  }
  if (!c.config.quant_method.empty()) DeclareUnquantized(m, &c);
  if (m.tower) add("visual.patch_embed.weight", DType::kBF16, {3, 5});
  made::SortArrays(&c);
  return c;
}

struct Understood {
  Catalogue catalogue;
  Inventory inventory;
  LayoutVerdict verdict;
};

inline Understood Understand(const Model& m) {
  Understood u{Make(m), {}, {}};
  auto inventory = TakeInventory(u.catalogue);
  EXPECT_TRUE(inventory.ok()) << inventory.error().Message();
  u.inventory = std::move(inventory).value();
  u.verdict.layout = m.layout;
  u.verdict.basis = "made so";
  return u;
}

}  // namespace mimo::made
