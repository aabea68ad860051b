// The Hugging Face directory form: what config.json, the index and the headers of an output must say (reference
// target-layouts.md section 6). Names come from the model table in both directions.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/status.h"
#include "lib/forms/hf/hf_quant.h"
#include "lib/layout/row_map.h"
#include "lib/model/catalogue.h"
#include "lib/model/file_names.h"

namespace mimo {

// What an output is, as far as its config must say so.
struct HfDescription {
  QkvLayout layout;
  AttentionShape global, window;                              // before replication, padding included
  int64_t vocab = 0, intermediate = 0, moe_intermediate = 0;  // 0: as the source says
  HfQuantization quantization;                                // without modules, nothing quantized remains
  std::string dtype;  // "bfloat16", "float16", "float32"; "" leaves the key alone
  bool text_only = false;
  std::optional<int64_t> mtp_layers = {};  // num_nextn_predict_layers, which is wrong in the source; nullopt: it stays
  bool ranks = false;               // the files are those of ranks: the model's own heads and projection layout stay
  std::string architecture;         // in place of the source's, "" keeps it
  bool keeps_quantization = false;  // quantization_config stays as it is (Neuron's readers do not look at it)
  bool folded_value_scale = false;  // attention_value_scale is in the weights, and must not be applied again
  LayoutMarker marker;              // form, table, tp, ep, expert_codes, source, unpadded; the rest follows from above
};

// Keys that speak of towers only; V2.5-Pro, the text-only sibling, has none of them.
bool IsTowerKey(const std::string& key);

// Stored KV heads of `shape` under `layout`: C when C exceeds them.
int64_t StoredKvHeads(const QkvLayout& layout, const AttentionShape& shape);

// The edited config.json: key order kept, untouched keys as they were. Errors of QuantizationConfig.
Result<std::string> EditHfConfig(const ModelConfig& config, const HfDescription& description);

// The index: metadata of the source (save_format as the quantized weights are, and only in the native dialect; tp_size
// = C only while fused), then every tensor by name.
std::string BuildHfIndex(const IndexInfo& source, const HfDescription& description, uint64_t total_size,
                         const std::vector<std::pair<std::string, std::string>>& tensor_and_file);

MarkedLayout MarkOf(const QkvLayout& layout);
QkvLayout LayoutOf(const MarkedLayout& marked);

}  // namespace mimo
