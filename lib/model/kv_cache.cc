#include "lib/model/kv_cache.h"

#include <nlohmann/json.hpp>

#include "lib/json/parse.h"
#include "lib/model/file_names.h"

namespace mimo {
namespace {

using nlohmann::ordered_json;

constexpr char kQuantizationKey[] = "quantization_config";
// ModelOpt's converter words the algorithm FP8 so in config.json, and others as they are (quantization-formats.md 3.5).
constexpr char kFp8Scheme[] = R"({"dynamic":false,"num_bits":8,"type":"float"})";

ordered_json ObjectOf(const std::string& text) {
  if (text.empty()) return ordered_json::object();
  Result<ordered_json> parsed = ParseJson<ordered_json>(text, kConfigName);
  return parsed.ok() && parsed->is_object() ? std::move(*parsed) : ordered_json::object();
}

ordered_json InnerObject(const ordered_json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_object() ? *it : ordered_json::object();
}

bool IsWord(const ordered_json& value) {
  return value.is_string() && !value.get_ref<const std::string&>().empty() && value != "none" && value != "auto";
}

KvCacheScheme SchemeAt(const ordered_json& object, const std::string& place) {
  KvCacheScheme found;
  if (const auto scheme = object.find(kCacheSchemeKey);
      scheme != object.end() && (scheme->is_object() || IsWord(*scheme))) {
    found.scheme = scheme->dump();
    found.place = place + kCacheSchemeKey;
    if (scheme->is_object()) {
      const auto dynamic = scheme->find("dynamic");
      found.dynamic = dynamic != scheme->end() && dynamic->is_boolean() && dynamic->get<bool>();
    }
  } else if (const auto word = object.find(kCacheAlgorithmKey); word != object.end() && IsWord(*word)) {
    found.scheme = *word == "FP8" ? std::string(kFp8Scheme) : word->dump();
    found.place = place + kCacheAlgorithmKey;
  }
  return found;
}

}  // namespace

KvCacheScheme ReadKvCacheScheme(const std::string& config, const std::string& quant_config) {
  const ordered_json root = ObjectOf(config);
  const std::string in_config = std::string(kConfigName) + ": ";
  KvCacheScheme found = SchemeAt(InnerObject(root, kQuantizationKey), in_config + kQuantizationKey + ".");
  if (!found.declared()) found = SchemeAt(root, in_config);
  if (!found.declared())
    found = SchemeAt(InnerObject(ObjectOf(quant_config), "quantization"),
                     std::string(kQuantConfigName) + ": quantization.");
  return found;
}

std::string ModelOptCacheAlgorithm(const std::string& scheme) {
  if (scheme.empty()) return "null";
  const Result<ordered_json> parsed = ParseJson<ordered_json>(scheme, kCacheSchemeKey);
  if (!parsed.ok()) return "null";
  if (parsed.value().is_string()) return scheme;
  const auto bits = parsed.value().find("num_bits");
  const auto type = parsed.value().find("type");
  const bool floats = type == parsed.value().end() || *type == "float";
  if (bits == parsed.value().end() || !bits->is_number_integer() || !floats) return "null";
  return *bits == 8 ? "\"FP8\"" : *bits == 4 ? "\"NVFP4\"" : "null";
}

}  // namespace mimo
