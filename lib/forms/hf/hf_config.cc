#include "lib/forms/hf/hf_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "lib/json/parse.h"
#include "lib/model/family.h"
#include "lib/model/kv_cache.h"

namespace mimo {

namespace {

using nlohmann::ordered_json;

constexpr char kQuantization[] = "quantization_config";

void AddLayout(const MarkedLayout& layout, ordered_json* object) {
  (*object)["qkv"] = layout.fused ? "fused" : "split";
  (*object)["chunks"] = layout.chunks;
  if (!layout.fused) (*object)["grid"] = layout.independent ? "independent" : "chunk";
}

ordered_json Marker(const HfDescription& d) {
  const LayoutMarker& m = d.marker;
  ordered_json marker;
  marker["version"] = 1;
  AddLayout(MarkOf(d.layout), &marker);
  marker["kv_heads"] = d.global.kv_heads;
  marker["swa_kv_heads"] = d.window.kv_heads;
  if (m.form != FormKind::kHf) marker["form"] = WordOf(kForms, m.form);
  if (!m.table.empty()) marker["table"] = m.table;
  if (m.tp > 0) marker["tp"] = m.tp;
  if (m.ep > 0) marker["ep"] = m.ep;
  if (m.expert_codes) marker["expert_codes"] = WordOf(kExpertCodes, *m.expert_codes);
  if (m.centred) marker["router_bias"] = WordOf(kRouterBiases, RouterBias::kCentred);
  if (m.router) marker["router"] = DTypeName(*m.router);
  if (m.cache_vectors) marker["cache_vectors"] = true;
  if (!m.cache_vector_names.empty()) marker["cache_vectors"] = m.cache_vector_names;
  if (m.recoded) marker["recoded"] = true;
  if (!m.folded.empty()) marker["folded_value_scale"] = m.folded;
  if (m.source) {
    ordered_json source;
    AddLayout(*m.source, &source);
    marker["source"] = std::move(source);
  }
  if (m.unpadded) {
    const UnpaddedDimensions& u = *m.unpadded;
    marker["unpadded"] = {{"heads", u.heads},
                          {"kv_heads", u.kv_heads},
                          {"swa_heads", u.swa_heads},
                          {"swa_kv_heads", u.swa_kv_heads},
                          {"intermediate", u.intermediate},
                          {"moe_intermediate", u.moe_intermediate},
                          {"vocab", u.vocab}};
    if (u.intermediate == 0) marker["unpadded"].erase("intermediate");  // no dense layers
  }
  return marker;
}

// Heads and widths that differ from what the config says, under the keys that it has.
void EditGeometry(const ModelConfig& source, const HfDescription& d, ordered_json* config) {
  const Family& family = *source.family;
  // Under the key of the field that is there, or else the family's own; a family without one has no such thing.
  const auto key_of = [&](Field field) -> std::string {
    const ConfigKey* key = family.KeyOf(field);
    if (key == nullptr) return "";
    for (const std::string& one : key->keys)
      if (config->contains(one)) return one;
    return key->keys.front();
  };
  const auto set = [&](Field field, int64_t stored, int64_t wanted) {
    if (const std::string key = key_of(field); stored != wanted && !key.empty()) (*config)[key] = wanted;
  };
  const auto absent = [&](Field field) {
    const std::string key = key_of(field);
    return !key.empty() && !config->contains(key);
  };
  // The parameters of a rank are laid out as for split files, whatever the rank files were made from.
  if (const std::string key = key_of(Field::kProjectionLayout); !key.empty()) {
    if (d.layout.fused() && !d.ranks)
      (*config)[key] = "fused_qkv";
    else
      config->erase(key);
  }
  // Engines replicate heads themselves when they build a rank's model.
  const int64_t kv = d.ranks ? d.global.kv_heads : StoredKvHeads(d.layout, d.global);
  const int64_t swa_kv = d.ranks ? d.window.kv_heads : StoredKvHeads(d.layout, d.window);
  set(Field::kKvHeads, source.global.kv_heads, kv);
  const bool swa_kv_follows = kv != source.global.kv_heads && absent(Field::kSwaKvHeads);
  set(Field::kSwaKvHeads, swa_kv_follows ? -1 : source.window.kv_heads, swa_kv);
  set(Field::kHeads, source.global.heads, d.global.heads);
  const bool follows = d.global.heads != source.global.heads && absent(Field::kSwaHeads);
  set(Field::kSwaHeads, follows ? -1 : source.window.heads, d.window.heads);
  if (d.intermediate > 0) set(Field::kIntermediate, source.intermediate, d.intermediate);
  if (d.moe_intermediate > 0) set(Field::kMoeIntermediate, source.moe_intermediate, d.moe_intermediate);
  if (d.vocab > 0) set(Field::kVocab, source.vocab, d.vocab);
  if (const std::string key = key_of(Field::kValueScale); d.folded_value_scale && !key.empty())
    (*config)[key] = nullptr;
  if (!d.architecture.empty()) (*config)["architectures"] = {d.architecture};
}

Status EditQuantization(const HfDescription& d, ordered_json* config) {
  const auto it = config->find(kQuantization);
  MIMO_ASSIGN_OR_RETURN(const std::string edited,
                        QuantizationConfig(d.quantization, it == config->end() ? "" : it->dump()));
  const std::string& scheme = d.quantization.kv_cache_scheme;
  config->erase(kCacheSchemeKey);
  if (edited.empty()) {
    config->erase(kQuantization);
    // What is declared of the KV cache stays, though engines look for it elsewhere (lib/model/kv_cache.h).
    if (!scheme.empty()) {
      MIMO_ASSIGN_OR_RETURN((*config)[kCacheSchemeKey], ParseJson<ordered_json>(scheme, kConfigName));
    }
  } else {
    MIMO_ASSIGN_OR_RETURN((*config)[kQuantization], ParseJson<ordered_json>(edited, kConfigName, kLongDocument));
  }
  return {};
}

// Where the rest of quantization_config stays: a scheme of what the output does not hold goes.
void DropCacheScheme(ordered_json* config) {
  config->erase(kCacheSchemeKey);
  const auto it = config->find(kQuantization);
  if (it == config->end() || !it->is_object()) return;
  for (const char* key : {kCacheSchemeKey, kCacheAlgorithmKey}) it->erase(key);
}

// What the family's index says its weights are saved as; "" to leave the key out.
std::string SaveFormat(const HfQuantization& quantization) {
  if (quantization.dialect != Dialect::kNative || quantization.quantized.empty()) return "";
  for (const QuantizedModule& module : quantization.quantized)
    if (module.codec == kernels::Codec::kMxfp4) return "mxfp4";
  return "fp8";
}

}  // namespace

bool IsTowerKey(const std::string& key) {
  for (const char* prefix : {"vision_", "audio_", "image_", "video_", "processor_config", "speech_"})
    if (key.rfind(prefix, 0) == 0) return true;
  return false;
}

int64_t StoredKvHeads(const QkvLayout& layout, const AttentionShape& shape) {
  return layout.fused() ? std::max(shape.kv_heads, layout.chunks) : shape.kv_heads;
}

MarkedLayout MarkOf(const QkvLayout& layout) {
  return {layout.fused(), layout.chunks, layout.kind == QkvKind::kSplitIndependent};
}

QkvLayout LayoutOf(const MarkedLayout& marked) {
  if (marked.fused) return {QkvKind::kFused, marked.chunks};
  return marked.independent ? kOwnGrids : QkvLayout{QkvKind::kSplit, marked.chunks};
}

Result<std::string> EditHfConfig(const ModelConfig& source, const HfDescription& d) {
  MIMO_ASSIGN_OR_RETURN(ordered_json config, ParseJson<ordered_json>(source.text, source.path));
  if (!config.is_object()) {
    return BadInput("config.json is not a JSON object").File(source.path);
  }
  EditGeometry(source, d, &config);
  if (!d.keeps_quantization)
    MIMO_RETURN_IF_ERROR(EditQuantization(d, &config));
  else if (d.quantization.kv_cache_scheme.empty())
    DropCacheScheme(&config);
  if (!d.dtype.empty()) {
    const bool has_dtype = config.contains("dtype"), has_torch = config.contains("torch_dtype");
    if (has_dtype) config["dtype"] = d.dtype;
    if (has_torch || !has_dtype) config["torch_dtype"] = d.dtype;
  }
  if (const std::string key = source.family->NameOf(Field::kMtpLayers); d.mtp_layers && !key.empty())
    config[key] = *d.mtp_layers;
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

}  // namespace mimo
