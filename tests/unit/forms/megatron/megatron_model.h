// A tiny model whose every element is another number, as a split Hugging Face checkpoint and as Megatron's tensors: the
// rows are put where the formulas of reference target-layouts.md 1.2 and 1.3 say, head by head, in no way that asks the
// library.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lib/forms/view.h"
#include "lib/io/dtype.h"
#include "lib/model/inventory.h"

namespace mimo::made {

struct Tensor {
  std::vector<int64_t> shape;
  std::vector<int32_t> values;  // C order
  int64_t size() const {
    int64_t n = 1;
    for (const int64_t d : shape) n *= d;
    return n;
  }
};
using Tensors = std::map<std::string, Tensor>;

inline constexpr int64_t kHidden = 8, kVocab = 10, kDense = 12, kMoe = 4, kExperts = 4;
inline constexpr int64_t kHeads = 8, kKv = 2, kSwaKv = 4, kD = 3, kV = 2;
inline constexpr int32_t kPad = 0;

struct TinyModel {
  std::vector<int> windowed = {0, 1, 1, 0}, moe = {0, 1, 1, 1};
  int mtp = 2;
};

inline std::string ConfigOf(const TinyModel& m) {
  return nlohmann::json{{"model_type", "mimo_v2"},
                        {"hidden_size", kHidden},
                        {"num_hidden_layers", m.windowed.size()},
                        {"vocab_size", kVocab},
                        {"intermediate_size", kDense},
                        {"moe_intermediate_size", kMoe},
                        {"n_routed_experts", kExperts},
                        {"num_attention_heads", kHeads},
                        {"num_key_value_heads", kKv},
                        {"swa_num_key_value_heads", kSwaKv},
                        {"head_dim", kD},
                        {"v_head_dim", kV},
                        {"hybrid_layer_pattern", m.windowed},
                        {"moe_layer_freq", m.moe},
                        {"torch_dtype", "bfloat16"},
                        {"add_swa_attention_sink_bias", true}}
      .dump();
}

// Every weight of the model by its Hugging Face name.
inline Tensors HuggingFace(const TinyModel& m) {
  Tensors all;
  int32_t next = 1;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    Tensor t{std::move(shape), {}};
    for (int64_t i = t.size(); i > 0; --i) t.values.push_back(next++);
    all[name] = std::move(t);
  };
  add("model.embed_tokens.weight", {kVocab, kHidden});
  add("lm_head.weight", {kVocab, kHidden});
  add("model.norm.weight", {kHidden});
  const auto layer = [&](const std::string& p, bool window, bool moe, bool mtp) {
    const int64_t kv = window ? kSwaKv : kKv;
    add(p + "input_layernorm.weight", {kHidden});
    add(p + (mtp ? "pre_mlp_layernorm.weight" : "post_attention_layernorm.weight"), {kHidden});
    add(p + "self_attn.q_proj.weight", {kHeads * kD, kHidden});
    add(p + "self_attn.k_proj.weight", {kv * kD, kHidden});
    add(p + "self_attn.v_proj.weight", {kv * kV, kHidden});
    add(p + "self_attn.o_proj.weight", {kHidden, kHeads * kV});
    if (window) add(p + "self_attn.attention_sink_bias", {kHeads});
    if (mtp) {
      for (const char* norm : {"enorm", "hnorm", "final_layernorm"}) add(p + norm + ".weight", {kHidden});
      add(p + "eh_proj.weight", {kHidden, 2 * kHidden});
    }
    if (moe) {
      add(p + "mlp.gate.weight", {kExperts, kHidden});
      add(p + "mlp.gate.e_score_correction_bias", {kExperts});
    }
    for (int64_t e = 0; e < (moe ? kExperts : 1); ++e) {
      const std::string q = p + (moe ? "mlp.experts." + std::to_string(e) + "." : "mlp.");
      const int64_t n = moe ? kMoe : kDense;
      add(q + "gate_proj.weight", {n, kHidden});
      add(q + "up_proj.weight", {n, kHidden});
      add(q + "down_proj.weight", {kHidden, n});
    }
  };
  for (size_t l = 0; l < m.windowed.size(); ++l)
    layer("model.layers." + std::to_string(l) + ".", m.windowed[l] != 0, m.moe[l] != 0, false);
  for (int l = 0; l < m.mtp; ++l) layer("model.mtp.layers." + std::to_string(l) + ".", true, false, true);
  return all;
}

inline Tensor Joined(const std::vector<Tensor>& parts) {  // along axis 0
  Tensor all = parts[0];
  for (size_t i = 1; i < parts.size(); ++i) {
    all.shape[0] += parts[i].shape[0];
    all.values.insert(all.values.end(), parts[i].values.begin(), parts[i].values.end());
  }
  return all;
}

inline Tensor Stacked(const std::vector<Tensor>& parts) {  // along a new axis in front
  std::vector<Tensor> with_axis = parts;
  for (Tensor& t : with_axis) t.shape.insert(t.shape.begin(), 1);
  return Joined(with_axis);
}

inline Tensor Slice(const Tensor& t, const std::vector<int64_t>& offsets, const std::vector<int64_t>& sizes) {
  Tensor part{sizes, {}};
  std::vector<int64_t> at(sizes.size(), 0);
  for (int64_t n = part.size(); n > 0; --n) {
    int64_t index = 0;
    for (size_t d = 0; d < at.size(); ++d) index = index * t.shape[d] + offsets[d] + at[d];
    part.values.push_back(t.values[static_cast<size_t>(index)]);
    for (size_t d = at.size(); d-- > 0;) {
      if (++at[d] < sizes[d]) break;
      at[d] = 0;
    }
  }
  return part;
}

// linear_qkv of q, k and v with `g` groups.
inline Tensor LinearQkv(const Tensor& q, const Tensor& k, const Tensor& v, int64_t g) {
  const int64_t h = kHeads / g, s = h * kD + kD + kV;
  Tensor all{{g * s, kHidden}, std::vector<int32_t>(static_cast<size_t>(g * s * kHidden), -1)};
  const auto put = [&](const Tensor& from, int64_t row, int64_t to) {
    for (int64_t c = 0; c < kHidden; ++c)
      all.values[static_cast<size_t>(to * kHidden + c)] = from.values[static_cast<size_t>(row * kHidden + c)];
  };
  for (int64_t head = 0; head < kHeads; ++head)
    for (int64_t d = 0; d < kD; ++d) put(q, head * kD + d, (head / h) * s + (head % h) * kD + d);
  for (int64_t head = 0; head < g; ++head) {
    for (int64_t d = 0; d < kD; ++d) put(k, head * kD + d, head * s + h * kD + d);
    for (int64_t d = 0; d < kV; ++d) put(v, head * kV + d, head * s + h * kD + kD + d);
  }
  return all;
}

// How a format names and stacks.
struct Scheme {
  std::string prefix = {};
  std::string inner = "transformer_layer";  // of MTP layers
  bool halves = false;                      // gate and up apart
  bool stacked = false;                     // one tensor for all decoder layers; they must be alike
  // "together": [E, ...]; else the name of one expert's tensor: "experts.experts.{e}.FC.weight" and so on.
  std::string experts = "together";
  int64_t vocab = kVocab;  // rows, zeros at the end
};

// `first`, `last`: a stage of decoder layers only, numbered from 0. The full tensors by key.
inline Tensors Megatron(const TinyModel& m, const Scheme& scheme) {
  const Tensors hf = HuggingFace(m);
  Tensors all;
  const auto padded = [&](Tensor t) {
    t.shape[0] = scheme.vocab;
    t.values.resize(static_cast<size_t>(t.size()), kPad);
    return t;
  };
  const auto add = [&](const std::string& key, Tensor t) {
    EXPECT_TRUE(all.emplace(scheme.prefix + key, std::move(t)).second) << key;
  };
  const auto gated = [&](const std::string& key, const Tensor& gate, const Tensor& up) {
    if (!scheme.halves) return add(key, Joined({gate, up}));
    add(key + "_w", gate);
    add(key + "_v", up);
  };
  add("embedding.word_embeddings.weight", padded(hf.at("model.embed_tokens.weight")));
  add("output_layer.weight", padded(hf.at("lm_head.weight")));
  add("decoder.final_layernorm.weight", hf.at("model.norm.weight"));
  const auto layer = [&](const std::string& p, const std::string& to, bool window, bool moe, bool mtp) {
    const int64_t g = window ? kSwaKv : kKv;
    add(to + "self_attention.linear_qkv.layer_norm_weight", hf.at(p + "input_layernorm.weight"));
    add(to + "self_attention.linear_qkv.weight",
        LinearQkv(hf.at(p + "self_attn.q_proj.weight"), hf.at(p + "self_attn.k_proj.weight"),
                  hf.at(p + "self_attn.v_proj.weight"), g));
    add(to + "self_attention.linear_proj.weight", hf.at(p + "self_attn.o_proj.weight"));
    if (window) add(to + "self_attention.core_attention.softmax_offset", hf.at(p + "self_attn.attention_sink_bias"));
    const Tensor& norm = hf.at(p + (mtp ? "pre_mlp_layernorm.weight" : "post_attention_layernorm.weight"));
    add(to + (moe ? "pre_mlp_layernorm.weight" : "mlp.linear_fc1.layer_norm_weight"), norm);
    if (!moe) {
      gated(to + "mlp.linear_fc1.weight", hf.at(p + "mlp.gate_proj.weight"), hf.at(p + "mlp.up_proj.weight"));
      add(to + "mlp.linear_fc2.weight", hf.at(p + "mlp.down_proj.weight"));
      return;
    }
    add(to + "mlp.router.weight", hf.at(p + "mlp.gate.weight"));
    add(to + "mlp.router.expert_bias", hf.at(p + "mlp.gate.e_score_correction_bias"));
    std::vector<Tensor> gates, ups, fc1, fc2;
    for (int64_t e = 0; e < kExperts; ++e) {
      const std::string from = p + "mlp.experts." + std::to_string(e) + ".";
      const Tensor &gate = hf.at(from + "gate_proj.weight"), &up = hf.at(from + "up_proj.weight");
      gates.push_back(gate);
      ups.push_back(up);
      fc1.push_back(Joined({gate, up}));
      fc2.push_back(hf.at(from + "down_proj.weight"));
      if (scheme.experts == "together") continue;
      const auto name = [&](const std::string& fc) {
        std::string text = to + "mlp." + scheme.experts;
        text.replace(text.find("FC"), 2, fc);
        return text.replace(text.find("{e}"), 3, std::to_string(e));
      };
      gated(name("linear_fc1"), gate, up);
      add(name("linear_fc2"), hf.at(from + "down_proj.weight"));
    }
    if (scheme.experts != "together") return;
    add(to + "mlp.experts.experts.linear_fc2.weight", Stacked(fc2));
    if (!scheme.halves) return add(to + "mlp.experts.experts.linear_fc1.weight", Stacked(fc1));
    add(to + "mlp.experts.experts.linear_fc1.weight_w", Stacked(gates));
    add(to + "mlp.experts.experts.linear_fc1.weight_v", Stacked(ups));
  };
  for (size_t l = 0; l < m.windowed.size(); ++l)
    layer("model.layers." + std::to_string(l) + ".", "decoder.layers." + std::to_string(l) + ".", m.windowed[l] != 0,
          m.moe[l] != 0, false);
  if (scheme.stacked) {
    std::map<std::string, std::vector<Tensor>> by_key;
    for (size_t l = 0; l < m.windowed.size(); ++l) {
      const std::string from = scheme.prefix + "decoder.layers." + std::to_string(l) + ".";
      for (auto at = all.lower_bound(from); at != all.end() && at->first.starts_with(from); at = all.erase(at))
        by_key[scheme.prefix + "decoder.layers." + at->first.substr(from.size())].push_back(at->second);
    }
    for (auto& [key, layers] : by_key) all[key] = Stacked(layers);
  }
  for (int l = 0; l < m.mtp; ++l) {
    const std::string p = "model.mtp.layers." + std::to_string(l) + ".", to = "mtp.layers." + std::to_string(l) + ".";
    for (const char* name : {"enorm.weight", "hnorm.weight", "final_layernorm.weight", "eh_proj.weight"})
      add(to + name, hf.at(p + name));
    layer(p, to + scheme.inner + ".", true, false, true);
  }
  return all;
}

// What is shown is the whole model, element by element. `value`: what lies in a stored array.
inline void ExpectShown(const View& view, const TinyModel& m,
                        const std::function<int32_t(uint32_t array, int64_t row, int64_t col)>& value) {
  const Tensors hf = HuggingFace(m);
  EXPECT_EQ(view.catalogue.arrays.size(), hf.size());
  for (const auto& [name, want] : hf) {
    const auto found = view.catalogue.by_name.find(name);
    ASSERT_NE(found, nullptr) << name;
    const StoredArray& shown = view.catalogue.arrays[*found];
    ASSERT_EQ(shown.shape, want.shape) << name;
    const int64_t cols = want.shape.back();
    std::vector<int32_t> values(want.values.size(), -1);
    for (const Fragment& f : view.fragments[*found])
      for (int64_t r = 0; r < f.rows; ++r)
        for (int64_t c = 0; c < f.cols; ++c) {
          int32_t& to = values.at(static_cast<size_t>((f.row + r) * cols + f.col + c));
          ASSERT_EQ(to, -1) << name << " twice";
          to = value(f.array, f.stored_row + r, f.stored_col + c);
        }
    EXPECT_EQ(values, want.values) << name;
  }
  const auto inventory = TakeInventory(view.catalogue);
  EXPECT_TRUE(inventory.ok()) << inventory.error().Message();
}

}  // namespace mimo::made
