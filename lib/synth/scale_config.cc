#include "lib/synth/scale_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "lib/json/parse.h"
#include "lib/model/family.h"

namespace mimo {
namespace {

using Json = nlohmann::ordered_json;

Error BadOption(std::string option, std::string expected, int64_t found) {
  return UsageError("bad value of " + std::move(option)).Expected(std::move(expected)).Found(std::to_string(found));
}

// Numbers of a config under the keys that its family has for them.
class Scaler {
 public:
  Scaler(const Preset& preset, const Family& family, const SynthOptions& options, Json& config)
      : preset_(preset), family_(family), options_(options), config_(config) {}

  Status Scale() {
    MIMO_RETURN_IF_ERROR(Shrink(Field::kLayers, "--layers", options_.layers));
    MIMO_RETURN_IF_ERROR(Shrink(Field::kExperts, "--experts", options_.experts));
    const int64_t unit = preset_.mxfp4_experts ? config_.at("quantization_config").value("mxfp4_block_size", 32) : 1;
    MIMO_RETURN_IF_ERROR(Set(Field::kHidden, "--hidden", options_.hidden, unit));
    MIMO_RETURN_IF_ERROR(Set(Field::kMoeIntermediate, "--moe-intermediate", options_.moe_intermediate, unit));
    MIMO_RETURN_IF_ERROR(Set(Field::kIntermediate, "--intermediate", options_.intermediate, 1));
    MIMO_RETURN_IF_ERROR(Set(Field::kVocab, "--vocab", options_.vocab, 1));
    CutLists();
    if (Has(Field::kExpertsPerToken) && Has(Field::kExperts))
      config_[KeyOf(Field::kExpertsPerToken)] = std::min(Number(Field::kExpertsPerToken), Number(Field::kExperts));
    if (!preset_.ignored_key.empty())
      config_["quantization_config"][preset_.ignored_key] = IgnoredModules(Number(Field::kLayers));
    if (!options_.mtp && Has(Field::kMtpLayers)) config_[KeyOf(Field::kMtpLayers)] = 0;
    for (const char* tower : {"vision_config", "audio_config"}) {
      if (!config_.contains(tower)) continue;
      config_[tower]["out_hidden_size"] = config_.at(KeyOf(Field::kHidden));
      if (!options_.towers) config_.erase(tower);
    }
    if (!options_.towers) config_.erase("processor_config");
    return {};
  }

 private:
  std::string KeyOf(Field field) const { return family_.NameOf(field); }
  bool Has(Field field) const { return family_.KeyOf(field) != nullptr && config_.contains(KeyOf(field)); }
  int64_t Number(Field field) const { return config_.at(KeyOf(field)).get<int64_t>(); }

  Error NoSuch(const char* option) const {
    return UsageError("preset " + preset_.name + " has nothing that " + option + " could change")
        .Expected("no " + std::string(option));
  }

  // An option that may only make the model smaller.
  Status Shrink(Field field, const char* option, const std::optional<int64_t>& value) {
    if (!value) return {};
    if (!Has(field)) return NoSuch(option);
    const int64_t most = Number(field);
    if (*value < 1 || *value > most) return BadOption(option, "1 to " + std::to_string(most), *value);
    config_[KeyOf(field)] = *value;
    return {};
  }

  Status Set(Field field, const char* option, const std::optional<int64_t>& value, int64_t unit) {
    if (!value) return {};
    if (!Has(field)) return NoSuch(option);
    if (*value < 1 || *value % unit != 0)
      return BadOption(option, unit == 1 ? "at least 1" : "a multiple of " + std::to_string(unit), *value);
    config_[KeyOf(field)] = *value;
    return {};
  }

  // Lists of one entry per layer.
  void CutLists() {
    const auto layers = static_cast<size_t>(Number(Field::kLayers));
    for (const std::string& key : preset_.per_layer) {
      Json& list = config_.at(key);
      while (list.size() > layers) list.erase(list.size() - 1);
    }
  }

  Json IgnoredModules(int64_t layers) const {
    Json list = Json::array();
    for (const std::string& every : preset_.ignored_every)
      for (int64_t n = 0; n < layers; ++n) list.push_back(NameInLayer(every, static_cast<int32_t>(n)));
    for (const std::string& name : preset_.ignored_extra) list.push_back(name);
    return list;
  }

  const Preset& preset_;
  const Family& family_;
  const SynthOptions& options_;
  Json& config_;
};

}  // namespace

Result<std::string> ScaledConfig(const Preset& preset, const SynthOptions& options) {
  try {
    MIMO_ASSIGN_OR_RETURN(Json config, ParseJson<Json>(preset.config, "config.json"));
    MIMO_ASSIGN_OR_RETURN(const ModelConfig whole, ParseModelConfig(preset.config, "config.json"));
    MIMO_RETURN_IF_ERROR(Scaler(preset, *whole.family, options, config).Scale());
    return config.dump(2) + "\n";
  } catch (const Json::exception& e) {
    return BadInput("the config of preset " + preset.name + " lacks what scaling needs").Found(e.what());
  }
}

}  // namespace mimo
