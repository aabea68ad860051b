#include "lib/form/hf.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace mimo {

namespace {

using nlohmann::ordered_json;

constexpr char kQuantization[] = "quantization_config";
constexpr char kProjectionLayout[] = "attention_projection_layout";

// Keys that speak of towers only; V2.5-Pro, the text-only sibling, has none of them.
bool IsTowerKey(const std::string& key) {
  for (const char* prefix : {"vision_", "audio_", "image_", "video_", "processor_config", "speech_"})
    if (key.rfind(prefix, 0) == 0) return true;
  return false;
}

ordered_json Marker(const HfDescription& d) {
  ordered_json marker;
  marker["version"] = 1;
  marker["qkv"] = d.layout.fused() ? "fused" : "split";
  marker["chunks"] = d.layout.chunks;
  if (!d.layout.fused()) marker["grid"] = d.layout.kind == QkvKind::kSplit ? "chunk" : "independent";
  marker["kv_heads"] = d.global.kv_heads;
  marker["swa_kv_heads"] = d.window.kv_heads;
  return marker;
}

Status EditQuantization(const HfDescription& d, ordered_json* config) {
  const auto it = config->find(kQuantization);
  MIMO_ASSIGN_OR_RETURN(const std::string edited,
                        QuantizationConfig(d.quantization, it == config->end() ? "" : it->dump()));
  if (edited.empty())
    config->erase(kQuantization);
  else
    (*config)[kQuantization] = ordered_json::parse(edited);
  return {};
}

// What the family's index says its weights are saved as; "" to leave the key out.
std::string SaveFormat(const HfQuantization& quantization) {
  if (quantization.dialect != Dialect::kNative || quantization.quantized.empty()) return "";
  for (const QuantizedModule& module : quantization.quantized)
    if (module.codec == kernels::Codec::kMxfp4) return "mxfp4";
  return "fp8";
}

}  // namespace

int64_t StoredKvHeads(const QkvLayout& layout, const AttentionShape& shape) {
  return layout.kind == QkvKind::kSplitIndependent ? shape.kv_heads : std::max(shape.kv_heads, layout.chunks);
}

Result<std::string> EditHfConfig(const ModelConfig& source, const HfDescription& d) {
  ordered_json config = ordered_json::parse(source.text, nullptr, false);
  if (!config.is_object()) {
    Error e;
    e.what = "config.json is not a JSON object";
    e.file = source.path;
    return e;
  }
  if (d.layout.fused())
    config[kProjectionLayout] = "fused_qkv";
  else
    config.erase(kProjectionLayout);
  const int64_t kv = StoredKvHeads(d.layout, d.global), swa_kv = StoredKvHeads(d.layout, d.window);
  if (kv != source.global.kv_heads) config["num_key_value_heads"] = kv;
  if (swa_kv != source.window.kv_heads || (kv != source.global.kv_heads && !config.contains("swa_num_key_value_heads")))
    config["swa_num_key_value_heads"] = swa_kv;
  MIMO_RETURN_IF_ERROR(EditQuantization(d, &config));
  if (!d.dtype.empty()) {
    const bool has_dtype = config.contains("dtype"), has_torch = config.contains("torch_dtype");
    if (has_dtype) config["dtype"] = d.dtype;
    if (has_torch || !has_dtype) config["torch_dtype"] = d.dtype;
  }
  if (d.text_only) {
    std::vector<std::string> gone;
    for (const auto& item : config.items())
      if (IsTowerKey(item.key())) gone.push_back(item.key());
    for (const std::string& key : gone) config.erase(key);
  }
  config[kLayoutKey] = Marker(d);
  return config.dump(2) + "\n";
}

std::string BuildHfIndex(const IndexInfo& source, const HfDescription& d, uint64_t total_size,
                         const std::vector<std::pair<std::string, std::string>>& tensor_and_file) {
  std::vector<std::pair<std::string, std::string>> metadata = {{"total_size", std::to_string(total_size)}};
  const std::string save_format = SaveFormat(d.quantization);
  for (const auto& [key, value] : source.metadata)
    if (key == "save_format") {
      if (!save_format.empty()) metadata.emplace_back(key, ordered_json(save_format).dump());
    } else if (key != "total_size" && key != "tp_size") {
      metadata.emplace_back(key, value);
    }
  if (d.layout.fused()) metadata.emplace_back("tp_size", std::to_string(d.layout.chunks));
  // One entry per line, by hand: 160 000 entries need no DOM.
  std::string text = "{\n  \"metadata\": {\n";
  size_t left = metadata.size();
  for (const auto& [key, value] : metadata)
    text += "    " + ordered_json(key).dump() + ": " + value + (--left ? ",\n" : "\n");
  text += "  },\n  \"weight_map\": {\n";
  left = tensor_and_file.size();
  for (const auto& [tensor, file] : tensor_and_file)
    text += "    " + ordered_json(tensor).dump() + ": " + ordered_json(file).dump() + (--left ? ",\n" : "\n");
  return text + "  }\n}\n";
}

std::vector<std::pair<std::string, std::string>> HfFileMetadata(
    const std::vector<std::pair<std::string, std::string>>& source, const QkvLayout& layout) {
  std::vector<std::pair<std::string, std::string>> metadata = {{"format", "pt"}};
  for (const auto& entry : source)
    if (entry.first != "format" && entry.first != kLayoutKey) metadata.push_back(entry);
  metadata.emplace_back(kLayoutKey, layout.ToString());
  return metadata;
}

}  // namespace mimo
