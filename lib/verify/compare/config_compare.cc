#include "lib/verify/compare/config_compare.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "lib/forms/hf/hf_config.h"
#include "lib/json/parse.h"
#include "lib/model/family.h"
#include "lib/model/file_names.h"
#include "lib/model/index.h"

namespace mimo {
namespace {

using nlohmann::json;

// How arrays are stored, and who wrote them.
constexpr std::array<std::string_view, 7> kOfStorage = {
    "quantization_config", "mimo_layout",   "torch_dtype",         "dtype",
    "kv_cache_scheme",     "_name_or_path", "transformers_version"};
// What a layout or padding changes: compared as numbers of the model before either.
constexpr std::array<Field, 8> kOfGeometry = {Field::kHeads,      Field::kKvHeads,         Field::kSwaHeads,
                                              Field::kSwaKvHeads, Field::kIntermediate,    Field::kMoeIntermediate,
                                              Field::kVocab,      Field::kProjectionLayout};

bool IsOfStorage(const Family& family, const std::string& key) {
  if (std::find(kOfStorage.begin(), kOfStorage.end(), key) != kOfStorage.end()) return true;
  return std::any_of(kOfGeometry.begin(), kOfGeometry.end(), [&](Field field) {
    const ConfigKey* of = family.KeyOf(field);
    return of != nullptr && std::find(of->keys.begin(), of->keys.end(), key) != of->keys.end();
  });
}

// What training and sampling use, not the model.
constexpr std::array<std::string_view, 9> kOfTraining = {
    "initializer_range", "output_router_logits", "use_cache",    "router_aux_loss_coef", "attention_dropout",
    "hidden_dropout",    "bos_token_id",         "eos_token_id", "pad_token_id"};

// Keys of one meaning: what one writer calls so, another calls otherwise.
constexpr std::array<std::pair<std::string_view, std::string_view>, 1> kAliases = {
    {{"rms_norm_eps", "layernorm_epsilon"}}};

// Texts, and what has texts in it, that choose what is computed or loaded.
constexpr std::array<std::string_view, 9> kTextsThatCount = {"auto_map",     "model_type",      "scoring_func",
                                                             "topk_method",  "hidden_act",      "rope_type",
                                                             "rope_scaling", "rope_parameters", "moe_router_dtype"};

bool IsNumber(const json& value) {
  if (value.is_number() || value.is_boolean()) return true;
  return (value.is_array() || value.is_object()) &&
         std::all_of(value.begin(), value.end(), [](const json& part) { return IsNumber(part); });
}

// What a config says under a key, or under another of the same meaning, or by saying nothing.
json ValueOf(const json& config, const std::string& key) {
  if (config.contains(key) && !config.at(key).is_null()) return config.at(key);
  for (const auto& [one, other] : kAliases)
    for (const auto& [from, to] : {std::pair(one, other), std::pair(other, one)})
      if (key == from && config.contains(std::string(to))) return config.at(std::string(to));
  return key == "routed_scaling_factor" ? json(1.0) : json();
}

// Whether a difference under `key` is one of what is computed or loaded; of objects, one of their members'.
bool Counts(const std::string& key, const json& x, const json& y) {
  if (std::find(kTextsThatCount.begin(), kTextsThatCount.end(), key) != kTextsThatCount.end()) return true;
  if (!x.is_object() || !y.is_object()) return (IsNumber(x) || x.is_null()) && (IsNumber(y) || y.is_null());
  for (const auto& [member, value] : x.items()) {
    const json other = y.contains(member) ? y.at(member) : json();
    if (value != other && Counts(member, value, other)) return true;
  }
  return std::any_of(y.items().begin(), y.items().end(), [&](const auto& item) {
    return !x.contains(item.key()) && Counts(item.key(), json(), item.value());
  });
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
  const Family& family = *x.family;
  const auto compare = [&](Field field, int64_t in_a, int64_t in_b) {
    const std::string key = family.NameOf(field);
    if (in_a != in_b && !key.empty())
      result->differences.push_back(
          {"config." + key, key, std::to_string(in_a) + " against " + std::to_string(in_b), std::nullopt});
  };
  const auto unpadded = [](const ModelConfig& config) {
    UnpaddedDimensions d{config.global.heads, LogicalShape(config, false).kv_heads,
                         config.window.heads, LogicalShape(config, true).kv_heads,
                         config.intermediate, config.moe_intermediate,
                         config.vocab};
    return config.marker && config.marker->unpadded ? *config.marker->unpadded : d;
  };
  const UnpaddedDimensions in_a = unpadded(x), in_b = unpadded(y);
  compare(Field::kHeads, in_a.heads, in_b.heads);
  compare(Field::kKvHeads, in_a.kv_heads, in_b.kv_heads);
  compare(Field::kSwaHeads, in_a.swa_heads, in_b.swa_heads);
  compare(Field::kSwaKvHeads, in_a.swa_kv_heads, in_b.swa_kv_heads);
  compare(Field::kIntermediate, in_a.intermediate, in_b.intermediate);
  compare(Field::kMoeIntermediate, in_a.moe_intermediate, in_b.moe_intermediate);
  compare(Field::kVocab, in_a.vocab, in_b.vocab);
}

// How the index of a directory is wrong, and of how many tensors; "" where it is not. Views are of other files, and
// merged catalogues of several directories.
std::string IndexFault(const Checkpoint& checkpoint) {
  const Catalogue& stored = checkpoint.stored;
  if (checkpoint.view || checkpoint.like || !stored.index.present) return "";
  Result<ParsedIndex> parsed = ParseIndex(stored.index.text, kIndexName);
  if (!parsed.ok()) return "";
  std::string example;
  uint64_t wrong = 0;
  const auto fault = [&](const std::string& text) {
    if (wrong++ == 0) example = text;
  };
  for (const auto& [tensor, file] : parsed.value().weight_map) {
    const StoredArray* array = stored.Find(tensor);
    if (array == nullptr && !stored.name_prefix.empty()) continue;  // its names are those of the files
    if (array == nullptr)
      fault(tensor + " is said to be in " + file + ", and is in no file");
    else if (stored.files[array->file].name != file)
      fault(tensor + " is said to be in " + file + ", and is in " + stored.files[array->file].name);
  }
  if (wrong > 0)
    return std::to_string(wrong) + " of " + std::to_string(parsed.value().weight_map.size()) + " entries: " + example;
  const auto& total = stored.index.total_size;
  if (total && stored.strays.empty() && *total != stored.payload_bytes())
    return "total_size " + std::to_string(*total) + ", and tensors have " + std::to_string(stored.payload_bytes()) +
           " bytes";
  return "";
}

void CompareIndexes(const Checkpoint& a, const Checkpoint& b, ConfigComparison* result) {
  const std::string in_a = IndexFault(a), in_b = IndexFault(b);
  for (const auto& [side, fault, other] : {std::tuple(&a, in_a, in_b), std::tuple(&b, in_b, in_a)}) {
    if (fault.empty()) continue;
    const std::string text = "in " + side->stored.root + ": " + fault;
    if (other.empty())
      result->differences.push_back({"index.stale", kIndexName, text, std::nullopt});
    else
      result->notes.push_back(std::string(kIndexName) + ": " + text);
  }
}

}  // namespace

ConfigComparison CompareConfigs(const Checkpoint& a, const Checkpoint& b) {
  ConfigComparison result;
  const json in_a = ConfigOf(a), in_b = ConfigOf(b);
  std::set<std::string> keys;
  for (const json* config : {&in_a, &in_b})
    for (const auto& [key, value] : config->items()) keys.insert(key);
  for (const std::string& key : keys) {
    if (IsOfStorage(*a.catalogue().config.family, key)) continue;
    const json x = ValueOf(in_a, key), y = ValueOf(in_b, key);
    if (x == y) continue;
    const std::string evidence =
        (x.is_null() ? "absent" : Short(x)) + " against " + (y.is_null() ? "absent" : Short(y));
    const bool no_tower = IsTowerKey(key) && (x.is_null() || y.is_null());  // text alone, which tensors show
    // transformers says there what other keys say already.
    const bool again = key == "rope_parameters" && (x.is_null() || y.is_null());
    const bool training = std::find(kOfTraining.begin(), kOfTraining.end(), key) != kOfTraining.end();
    if (!no_tower && !again && !training && Counts(key, x, y))
      result.differences.push_back({"config." + key, key, evidence, std::nullopt});
    else
      result.notes.push_back("config.json: " + key + ": " + evidence);
  }
  CompareGeometry(a, b, &result);
  CompareIndexes(a, b, &result);
  return result;
}

}  // namespace mimo
