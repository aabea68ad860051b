#include "lib/form/hf.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

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

// Sets a key in place, or appends it.
void EditQuantization(const HfDescription& d, ordered_json* config) {
  if (!d.quantized) {
    config->erase(kQuantization);
    return;
  }
  auto it = config->find(kQuantization);
  if (it == config->end() || !it->is_object()) return;
  ordered_json& quantization = *it;
  // Ignore lists that engines match by exact module name: complete, under both names that they read.
  ordered_json list = ordered_json::array();
  std::set<std::string> listed;
  const auto add = [&](const std::string& name) {
    if (listed.insert(name).second) list.push_back(name);
  };
  for (const char* key : {"ignored_layers", "modules_to_not_convert"})
    if (auto old = quantization.find(key); old != quantization.end() && old->is_array())
      for (const ordered_json& name : *old)
        if (name.is_string()) add(name.get<std::string>());
  for (const std::string& name : d.unquantized) add(name);
  quantization["ignored_layers"] = list;
  quantization["modules_to_not_convert"] = std::move(list);
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
  EditQuantization(d, &config);
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
  for (const auto& [key, value] : source.metadata)
    if (key != "total_size" && key != "tp_size" && (d.quantized || key != "save_format"))
      metadata.emplace_back(key, value);
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
