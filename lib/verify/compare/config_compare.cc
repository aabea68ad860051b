#include "lib/verify/compare/config_compare.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>

#include "lib/forms/hf/hf_config.h"
#include "lib/json/parse.h"
#include "lib/model/file_names.h"

namespace mimo {
namespace {

using nlohmann::json;

// How arrays are stored, and who wrote them.
constexpr std::array<std::string_view, 15> kOfStorage = {"quantization_config",
                                                         "mimo_layout",
                                                         "torch_dtype",
                                                         "dtype",
                                                         "attention_projection_layout",
                                                         "kv_cache_scheme",
                                                         "num_key_value_heads",
                                                         "swa_num_key_value_heads",
                                                         "num_attention_heads",
                                                         "swa_num_attention_heads",
                                                         "intermediate_size",
                                                         "moe_intermediate_size",
                                                         "vocab_size",
                                                         "_name_or_path",
                                                         "transformers_version"};

bool IsNumber(const json& value) {
  if (value.is_number() || value.is_boolean()) return true;
  return (value.is_array() || value.is_object()) &&
         std::all_of(value.begin(), value.end(), [](const json& part) { return IsNumber(part); });
}

std::string Short(const json& value) {
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return text;
}

// The config of the model itself: rank directories and training checkpoints keep that of their source.
json ConfigOf(const Checkpoint& checkpoint) {
  const bool other = checkpoint.view && checkpoint.stored.origin;
  const std::string& text = other ? checkpoint.stored.origin->config : checkpoint.stored.config.text;
  Result<json> parsed = ParseJson<json>(text, kConfigName);
  return parsed.ok() && parsed.value().is_object() ? std::move(parsed).value() : json::object();
}

// Dimensions of the model before replication and padding.
void CompareGeometry(const Checkpoint& a, const Checkpoint& b, ConfigComparison* result) {
  const ModelConfig &x = a.catalogue().config, &y = b.catalogue().config;
  const auto compare = [&](const char* key, int64_t in_a, int64_t in_b) {
    if (in_a != in_b)
      result->differences.push_back(
          {std::string("config.") + key, key, std::to_string(in_a) + " against " + std::to_string(in_b), std::nullopt});
  };
  const auto unpadded = [](const ModelConfig& config) {
    UnpaddedDimensions d{config.global.heads, LogicalShape(config, false).kv_heads,
                         config.window.heads, LogicalShape(config, true).kv_heads,
                         config.intermediate, config.moe_intermediate,
                         config.vocab};
    return config.marker && config.marker->unpadded ? *config.marker->unpadded : d;
  };
  const UnpaddedDimensions in_a = unpadded(x), in_b = unpadded(y);
  compare("num_attention_heads", in_a.heads, in_b.heads);
  compare("num_key_value_heads", in_a.kv_heads, in_b.kv_heads);
  compare("swa_num_attention_heads", in_a.swa_heads, in_b.swa_heads);
  compare("swa_num_key_value_heads", in_a.swa_kv_heads, in_b.swa_kv_heads);
  compare("intermediate_size", in_a.intermediate, in_b.intermediate);
  compare("moe_intermediate_size", in_a.moe_intermediate, in_b.moe_intermediate);
  compare("vocab_size", in_a.vocab, in_b.vocab);
}

}  // namespace

ConfigComparison CompareConfigs(const Checkpoint& a, const Checkpoint& b) {
  ConfigComparison result;
  const json in_a = ConfigOf(a), in_b = ConfigOf(b);
  std::set<std::string> keys;
  for (const json* config : {&in_a, &in_b})
    for (const auto& [key, value] : config->items()) keys.insert(key);
  for (const std::string& key : keys) {
    if (std::find(kOfStorage.begin(), kOfStorage.end(), key) != kOfStorage.end()) continue;
    const json x = in_a.contains(key) ? in_a.at(key) : json(), y = in_b.contains(key) ? in_b.at(key) : json();
    if (x == y) continue;
    const std::string evidence =
        (x.is_null() ? "absent" : Short(x)) + " against " + (y.is_null() ? "absent" : Short(y));
    const bool no_tower = IsTowerKey(key) && (x.is_null() || y.is_null());  // text alone, which tensors show
    const bool numbers = (IsNumber(x) || x.is_null()) && (IsNumber(y) || y.is_null());
    const bool counts = key == "auto_map" || key == "model_type" || (numbers && !no_tower);
    if (counts)
      result.differences.push_back({"config." + key, key, evidence, std::nullopt});
    else
      result.notes.push_back("config.json: " + key + ": " + evidence);
  }
  CompareGeometry(a, b, &result);
  return result;
}

}  // namespace mimo
