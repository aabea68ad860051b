// config.json of a checkpoint, read tolerantly under the keys of its family: integers may be strings, absent fields
// take their documented meaning (reference mimo-checkpoints.md section 1.2). Geometry comes from here; what is really
// stored comes from the shard headers.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/io/dtype.h"
#include "lib/model/forms.h"

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

// A layout as "mimo_layout" writes it.
struct MarkedLayout {
  bool fused = false;
  int64_t chunks = 0;        // C of fused(C), or of the chunks that a split grid was cut from; 1 with independent grids
  bool independent = false;  // split: each array has a grid of its own
};

// Dimensions of a model before zeros were added for a TP that does not divide them.
struct UnpaddedDimensions {
  int64_t heads = 0, kv_heads = 0;
  int64_t swa_heads = 0, swa_kv_heads = 0;
  int64_t intermediate = 0, moe_intermediate = 0;
  int64_t vocab = 0;
  bool operator==(const UnpaddedDimensions&) const = default;
};

// What mimo-convert wrote about the layout of its own output ("mimo_layout" in config.json; docs/formats.md).
struct LayoutMarker {
  bool fused = false;  // as in MarkedLayout
  int64_t chunks = 0;
  int64_t kv_heads = 0;  // heads of the model before replication, padding included
  int64_t swa_kv_heads = 0;
  bool independent = false;
  FormKind form = FormKind::kHf;                 // not kDcp or kTorch, which nobody writes
  std::string table = {};                        // sharded-state: the form table that named the arrays
  int64_t tp = 0, ep = 0;                        // sharded-state: its ranks
  std::optional<ExpertCodes> expert_codes = {};  // nxdi
  bool centred = false;                          // router biases lack their mean (RouterBias::kCentred)
  std::string folded = {};     // where attention_value_scale went: a word of kFoldIntos, kept as it was read
  bool cache_vectors = false;  // sharded-state: the source's scales of the KV cache are of shape [1], here []
  std::vector<std::string> cache_vector_names = {};  // where only some of them are: these
  std::optional<DType> router = {};         // sharded-state, torch_dist: what the source's router was widened from
  bool recoded = false;                     // weights are not in the codecs that the source had
  std::optional<MarkedLayout> source = {};  // what it was made from
  std::optional<UnpaddedDimensions> unpadded = {};
};

struct Family;  // lib/model/family.h

struct ModelConfig {
  const Family* family = nullptr;  // whose keys these are; never null once it was parsed
  std::string text;                // the file as read; forms edit this
  std::string path;
  std::string model_type;
  std::vector<std::string> architectures;
  int64_t hidden = 0;
  int64_t layers = 0;
  int64_t vocab = 0;
  int64_t intermediate = 0;  // of dense layers; 0: the family has none
  int64_t moe_intermediate = 0;
  int64_t experts = 0;
  int64_t shared_experts = 0;
  AttentionShape global;          // full-attention layers; kv_heads as config.json says (replicas included)
  AttentionShape window;          // sliding-window layers
  std::vector<uint8_t> windowed;  // per layer: 1 = sliding window
  std::vector<uint8_t> moe;       // per layer: 1 = routed experts
  bool mtp_windowed = false;      // MTP layers have sliding-window attention
  bool mtp_moe = false;           // and routed experts
  std::map<std::string, bool, std::less<>> flags;  // of the family (Family::flags)
  bool global_sinks = false;
  bool window_sinks = false;
  bool tied_embeddings = false;
  std::string projection_layout;      // attention_projection_layout; "" when absent
  std::string router_dtype;           // moe_router_dtype; "" when absent
  std::optional<double> value_scale;  // attention_value_scale: V is multiplied by it at run time
  std::optional<int64_t> nextn_layers;
  bool has_vision = false;
  bool has_audio = false;
  // quantization_config; quant_method is "" when the key is absent.
  std::string quant_method;
  std::string store_dtype;
  std::string scale_fmt;         // "ue8m0": every block FP8 scale is a power of two
  bool declares_blocks = false;  // of FP8: weight_block_size, or a block_structure
  int64_t block_rows = 128;
  int64_t block_cols = 128;
  int64_t mxfp4_block = 32;
  std::optional<LayoutMarker> marker;

  const AttentionShape& attention(bool windowed_layer) const { return windowed_layer ? window : global; }
  // Of decoder layer n, or of an MTP layer.
  bool windowed_at(int layer, bool mtp) const { return mtp ? mtp_windowed : windowed[static_cast<size_t>(layer)] != 0; }
  // Of decoder layer n (-1: of none), or of an MTP layer.
  bool moe_at(int layer, bool mtp) const { return mtp ? mtp_moe : layer >= 0 && moe[static_cast<size_t>(layer)] != 0; }
  const AttentionShape& attention_of(int layer, bool mtp) const { return attention(windowed_at(layer, mtp)); }
};

// kBadInput naming the key: what was expected and what was found; of a family that no description speaks of
// ("model.unknown_family"), which are known.
Result<ModelConfig> ParseModelConfig(const std::string& text, const std::string& path);

}  // namespace mimo
