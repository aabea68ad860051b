// What a checkpoint declares about its KV cache: that engines store it quantized, and how. The scales, where they are
// tensors, are CacheScale of the inventory.
#pragma once

#include <string>

namespace mimo {

inline constexpr char kCacheSchemeKey[] = "kv_cache_scheme";
inline constexpr char kCacheAlgorithmKey[] = "kv_cache_quant_algo";

// Where it is declared: kv_cache_scheme of quantization_config (compressed-tensors, and ModelOpt's config.json),
// kv_cache_quant_algo there or in hf_quant_config.json (ModelOpt), or kv_cache_scheme at the top of config.json, where
// mimo-convert keeps it when nothing else is quantized.
struct KvCacheScheme {
  std::string scheme;  // JSON text: an object ({"num_bits": 8, "type": "float", ...}) or a word ("\"NVFP4\""); "" none
  std::string place;   // "config.json: quantization_config.kv_cache_scheme"
  bool dynamic = false;  // scales are taken at run time: none are stored
  bool declared() const { return !scheme.empty(); }
};

// `config`: the text of config.json; `quant_config`: of hf_quant_config.json, "" without one. Texts that are no JSON
// objects declare nothing.
KvCacheScheme ReadKvCacheScheme(const std::string& config, const std::string& quant_config);

// How ModelOpt calls a scheme, as JSON text: "\"FP8\"", "\"NVFP4\"", or what the scheme is where that is a word; "null"
// for none, and for what it has no word for.
std::string ModelOptCacheAlgorithm(const std::string& scheme);

}  // namespace mimo
