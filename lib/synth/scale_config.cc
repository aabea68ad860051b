#include "lib/synth/scale_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "lib/json/parse.h"

namespace mimo {
namespace {

using Json = nlohmann::ordered_json;

Error BadOption(std::string option, std::string expected, int64_t found) {
  return UsageError("bad value of " + std::move(option)).Expected(std::move(expected)).Found(std::to_string(found));
}

// An option that may only make the model smaller.
Status Shrink(Json& config, const char* key, const char* option, const std::optional<int64_t>& value) {
  if (!value) return {};
  const int64_t most = config.at(key).get<int64_t>();
  if (*value < 1 || *value > most) return BadOption(option, "1 to " + std::to_string(most), *value);
  config[key] = *value;
  return {};
}

Status Set(Json& config, const char* key, const char* option, const std::optional<int64_t>& value, int64_t unit) {
  if (!value) return {};
  if (*value < 1 || *value % unit != 0) {
    return BadOption(option, unit == 1 ? "at least 1" : "a multiple of " + std::to_string(unit), *value);
  }
  config[key] = *value;
  return {};
}

Json IgnoredLayers(const Preset& preset, int64_t layers) {
  Json list = Json::array();
  for (int64_t n = 0; n < layers; ++n) {
    std::string name = preset.ignored_every;
    name.replace(name.find(kLayerSlot), kLayerSlot.size(), std::to_string(n));
    list.push_back(std::move(name));
  }
  for (const std::string& name : preset.ignored_extra) list.push_back(name);
  return list;
}

Status Edit(const Preset& preset, const SynthOptions& options, Json& config) {
  MIMO_RETURN_IF_ERROR(Shrink(config, "num_hidden_layers", "--layers", options.layers));
  MIMO_RETURN_IF_ERROR(Shrink(config, "n_routed_experts", "--experts", options.experts));
  const int64_t unit = preset.mxfp4_experts ? config.at("quantization_config").value("mxfp4_block_size", 32) : 1;
  MIMO_RETURN_IF_ERROR(Set(config, "hidden_size", "--hidden", options.hidden, unit));
  MIMO_RETURN_IF_ERROR(Set(config, "moe_intermediate_size", "--moe-intermediate", options.moe_intermediate, unit));
  MIMO_RETURN_IF_ERROR(Set(config, "intermediate_size", "--intermediate", options.intermediate, 1));
  MIMO_RETURN_IF_ERROR(Set(config, "vocab_size", "--vocab", options.vocab, 1));
  const int64_t layers = config.at("num_hidden_layers").get<int64_t>();
  for (const char* key : {"hybrid_layer_pattern", "moe_layer_freq"}) {
    Json& list = config.at(key);
    while (list.size() > static_cast<size_t>(layers)) list.erase(list.size() - 1);
  }
  config["num_experts_per_tok"] =
      std::min(config.at("num_experts_per_tok").get<int64_t>(), config.at("n_routed_experts").get<int64_t>());
  config["quantization_config"]["ignored_layers"] = IgnoredLayers(preset, layers);
  if (!options.mtp && config.contains("num_nextn_predict_layers")) config["num_nextn_predict_layers"] = 0;
  for (const char* tower : {"vision_config", "audio_config"}) {
    if (!config.contains(tower)) continue;
    config[tower]["out_hidden_size"] = config.at("hidden_size");
    if (!options.towers) config.erase(tower);
  }
  if (!options.towers) config.erase("processor_config");
  return {};
}

}  // namespace

Result<std::string> ScaledConfig(const Preset& preset, const SynthOptions& options) {
  try {
    MIMO_ASSIGN_OR_RETURN(Json config, ParseJson<Json>(preset.config, "config.json"));
    MIMO_RETURN_IF_ERROR(Edit(preset, options, config));
    return config.dump(2) + "\n";
  } catch (const Json::exception& e) {
    return BadInput("the config of preset " + preset.name + " lacks what scaling needs").Found(e.what());
  }
}

}  // namespace mimo
