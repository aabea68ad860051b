// config.json of a MiMo-V2 checkpoint, read tolerantly: integers may be strings, absent fields take their documented
// meaning (reference mimo-checkpoints.md section 1.2). Geometry comes from here; what is really stored comes from the
// shard headers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/status.h"

namespace mimo {

// One attention kind. Q and K heads have head_dim rows, V heads v_head_dim.
struct AttentionShape {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t v_head_dim = 0;
  int64_t q_rows() const { return heads * head_dim; }
  int64_t k_rows() const { return kv_heads * head_dim; }
  int64_t v_rows() const { return kv_heads * v_head_dim; }
  bool operator==(const AttentionShape&) const = default;
};

// What mimo-convert wrote about the layout of its own output ("mimo_layout" in config.json).
struct LayoutMarker {
  std::string qkv;       // "fused" or "split"
  int64_t chunks = 0;    // C of fused(C), or of the chunks that a split grid was cut from; 1 with independent grids
  int64_t kv_heads = 0;  // heads of the model before replication
  int64_t swa_kv_heads = 0;
};

struct ModelConfig {
  std::string text;  // the file as read; forms edit this
  std::string path;
  std::string model_type;
  std::vector<std::string> architectures;
  int64_t hidden = 0;
  int64_t layers = 0;
  int64_t vocab = 0;
  int64_t intermediate = 0;
  int64_t moe_intermediate = 0;
  int64_t experts = 0;
  AttentionShape global;          // full-attention layers; kv_heads as config.json says (replicas included)
  AttentionShape window;          // sliding-window and MTP layers
  std::vector<uint8_t> windowed;  // per layer: 1 = sliding window (hybrid_layer_pattern)
  std::vector<uint8_t> moe;       // per layer: 1 = routed experts (moe_layer_freq)
  bool global_sinks = false;
  bool window_sinks = false;
  bool tied_embeddings = false;
  std::string projection_layout;  // attention_projection_layout; "" when absent
  std::optional<int64_t> nextn_layers;
  bool has_vision = false;
  bool has_audio = false;
  // quantization_config; quant_method is "" when the key is absent.
  std::string quant_method;
  std::string store_dtype;
  std::string scale_fmt;  // "ue8m0": every block FP8 scale is a power of two
  int64_t block_rows = 128;
  int64_t block_cols = 128;
  int64_t mxfp4_block = 32;
  std::optional<LayoutMarker> marker;

  const AttentionShape& attention(bool windowed_layer) const { return windowed_layer ? window : global; }
  // Attention of decoder layer n, or of an MTP layer (always sliding-window, reference section 6).
  const AttentionShape& attention_of(int layer, bool mtp) const {
    return attention(mtp || windowed[static_cast<size_t>(layer)] != 0);
  }
};

// kBadInput naming the key: what was expected and what was found.
Result<ModelConfig> ParseModelConfig(const std::string& text, const std::string& path);

}  // namespace mimo
