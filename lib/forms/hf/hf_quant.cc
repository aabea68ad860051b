#include "lib/forms/hf/hf_quant.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <tuple>

#include "lib/forms/hf/kept_quant.h"
#include "lib/json/parse.h"
#include "lib/model/kv_cache.h"
#include "lib/recipe/recipe_words.h"

namespace mimo {
namespace {

using nlohmann::ordered_json;

// What a codec is called: to people, as a format of compressed-tensors, and as an algorithm of ModelOpt.
struct CodecNames {
  const char* text;
  const char* format;
  const char* algorithm;  // "": none (CheckCodecs)
};
constexpr std::pair<Codec, CodecNames> kCodecNames[] = {
    {Codec::kFp8Block, {"block FP8", "float-quantized", "FP8_PB_WO"}},
    {Codec::kMxfp4, {"MXFP4", "mxfp4-pack-quantized", ""}},
    {Codec::kMxfp8, {"MXFP8", "mxfp8-quantized", "MXFP8"}},
    {Codec::kNvfp4, {"NVFP4", "nvfp4-pack-quantized", "W4A16_NVFP4"}},
    {Codec::kFp32, {"a plain type", "dense", ""}},
    {Codec::kFp16, {"a plain type", "dense", ""}},
    {Codec::kBf16, {"a plain type", "dense", ""}},
};
static_assert(NamesEach(kCodecNames));

const CodecNames& NamesOf(Codec codec) {
  return std::ranges::find(kCodecNames, codec, &std::pair<Codec, CodecNames>::first)->second;
}

Status CheckCodecs(const HfQuantization& q) {
  for (const QuantizedModule& module : q.quantized) {
    if (q.dialect == Dialect::kNative && module.span != ScaleSpan::kBlock)
      return UsageError("the dialect native describes FP8 in blocks only")
          .Tensor(module.name)
          .Found(module.span == ScaleSpan::kRow ? "one scale per row" : "one scale per tensor")
          .Advice("--dialect compressed-tensors; or a recipe that stores it as FP8, MXFP4 or BF16")
          .Id("fp8.no_words");
    if (ArraysOf(q.dialect, module.codec)) continue;
    const std::string codec = NamesOf(module.codec).text;
    return UsageError("the dialect " + std::string(WordOf(kDialects, q.dialect)) + " has no " + codec + " weights")
        .Tensor(module.name)
        .Found(codec)
        .Advice(q.dialect == Dialect::kModelOpt
                    ? "store it as NVFP4, MXFP8 or BF16, or choose the dialect compressed-tensors or native"
                    : "store it as FP8, MXFP4 or BF16, or choose the dialect modelopt or compressed-tensors");
  }
  return {};
}

// Whether some FP8 weight has scales of this kind.
bool Any(const HfQuantization& q, ScaleSpan span) {
  return std::any_of(q.quantized.begin(), q.quantized.end(), [span](const QuantizedModule& module) {
    return module.codec == Codec::kFp8Block && module.span == span;
  });
}

bool Any(const HfQuantization& q, Codec codec) {
  return std::any_of(q.quantized.begin(), q.quantized.end(),
                     [codec](const QuantizedModule& module) { return module.codec == codec; });
}

// ---- the family's own -----------------------------------------------------------------------------------------------

// Engines match these lists by exact module name, under either key: both are complete. Names that the source lists and
// that are no module of this model (model.decoder.self_attn.o_proj) stay.
ordered_json IgnoreList(const HfQuantization& q, const ordered_json& source) {
  std::set<std::string> taken;
  for (const QuantizedModule& module : q.quantized) taken.insert(module.name);
  ordered_json list = ordered_json::array();
  const auto add = [&](const std::string& name) {
    if (taken.insert(name).second) list.push_back(name);
  };
  for (const char* key : {"ignored_layers", "modules_to_not_convert"})
    if (auto old = source.find(key); old != source.end() && old->is_array())
      for (const ordered_json& name : *old)
        if (name.is_string()) add(name.get<std::string>());
  for (const std::string& name : q.unquantized) add(name);
  return list;
}

// Null where nothing is declared.
ordered_json CacheScheme(const HfQuantization& q) {
  if (q.kv_cache_scheme.empty()) return nullptr;
  const Result<ordered_json> scheme = ParseJson<ordered_json>(q.kv_cache_scheme, kCacheSchemeKey);
  return scheme.ok() ? scheme.value() : ordered_json();
}

ordered_json NativeConfig(const HfQuantization& q, const ordered_json& source) {
  ordered_json config = source;
  if (!config.is_object() || config.value("quant_method", "") != "fp8")
    config = {{"activation_scheme", "dynamic"}, {"fmt", "e4m3"}, {"quant_method", "fp8"}};
  const bool fp8 = Any(q, ScaleSpan::kBlock), rows = Any(q, ScaleSpan::kRow) || Any(q, ScaleSpan::kTensor);
  if (fp8 || (!rows && !config.contains("weight_block_size")))
    config["weight_block_size"] = {q.fp8_block_rows, q.fp8_block_cols};
  if (Any(q, Codec::kMxfp4)) {
    config["store_dtype"] = "mxfp4";
    config["mxfp4_block_size"] = 32;
  } else {
    if (config.value("store_dtype", "") == "mxfp4") config["store_dtype"] = "fp8";
    config.erase("mxfp4_block_size");
  }
  if (fp8 && std::all_of(q.quantized.begin(), q.quantized.end(), [](const QuantizedModule& module) {
        return module.codec != Codec::kFp8Block || module.power_of_two;
      })) {
    config["scale_fmt"] = "ue8m0";
  } else {
    config.erase("scale_fmt");
  }
  config.erase(kCacheAlgorithmKey);
  if (q.kv_cache_scheme.empty())
    config.erase(kCacheSchemeKey);
  else
    config[kCacheSchemeKey] = CacheScheme(q);
  ordered_json list = IgnoreList(q, config);
  config["ignored_layers"] = list;
  config["modules_to_not_convert"] = std::move(list);
  return config;
}

// ---- how modules are listed -----------------------------------------------------------------------------------------

// "model.layers.1.mlp.experts" of "model.layers.1.mlp.experts.7.up_proj"; "" of what is no expert.
std::string ExpertsOf(const std::string& name) {
  constexpr std::string_view kSegment = ".experts.";
  const size_t at = name.find(kSegment);
  return at == std::string::npos ? "" : name.substr(0, at + kSegment.size() - 1);
}

// Whether all experts of a layer are stored alike, by their common prefix.
class AlikeExperts {
 public:
  explicit AlikeExperts(const HfQuantization& q) {
    for (const QuantizedModule& module : q.quantized)
      See(module.name, {static_cast<int>(module.codec), module.input_scale, module.span});
    for (const std::string& name : q.unquantized) See(name, {-1, false, ScaleSpan::kBlock});
  }
  bool operator()(const std::string& experts) const { return !mixed_.contains(experts); }

 private:
  using Kind = std::tuple<int, bool, ScaleSpan>;
  void See(const std::string& name, Kind kind) {
    const std::string experts = ExpertsOf(name);
    if (!experts.empty() && kinds_.emplace(experts, kind).first->second != kind) mixed_.insert(experts);
  }
  std::map<std::string, Kind> kinds_;
  std::set<std::string> mixed_;
};

// ---- ModelOpt -------------------------------------------------------------------------------------------------------

std::string AlgorithmOf(const QuantizedModule& module) {
  if (module.span == ScaleSpan::kRow) return "FP8_PER_CHANNEL_PER_TOKEN";
  if (module.span == ScaleSpan::kTensor) return "FP8";
  return module.codec == Codec::kNvfp4 && module.input_scale ? "NVFP4" : NamesOf(module.codec).algorithm;
}

int64_t GroupSizeOf(const HfQuantization& q, const std::string& algorithm) {
  return algorithm == "MXFP8" ? 32 : algorithm == "FP8_PB_WO" ? q.fp8_block_cols : 16;
}

Status CheckModelOpt(const HfQuantization& q) {
  if (!Any(q, ScaleSpan::kBlock) || q.fp8_block_rows == q.fp8_block_cols) return {};
  return UsageError("the dialect modelopt describes FP8 blocks by one number")
      .Expected("square blocks")
      .Found(std::to_string(q.fp8_block_rows) + " x " + std::to_string(q.fp8_block_cols))
      .Advice("choose square blocks, or the dialect native or compressed-tensors");
}

// The value of "quantization" in hf_quant_config.json.
ordered_json ModelOptQuantization(const HfQuantization& q) {
  std::set<std::string> algorithms;
  for (const QuantizedModule& module : q.quantized) algorithms.insert(AlgorithmOf(module));
  ordered_json out;
  const bool mixed = algorithms.size() > 1;
  const bool fp4 = Any(q, Codec::kNvfp4);
  out["quant_algo"] = mixed ? "MIXED_PRECISION" : *algorithms.begin();
  const Result<ordered_json> cache =
      ParseJson<ordered_json>(ModelOptCacheAlgorithm(q.kv_cache_scheme), kCacheAlgorithmKey);
  out[kCacheAlgorithmKey] = cache.ok() ? cache.value() : ordered_json();
  const bool groups = fp4 || mixed || Any(q, ScaleSpan::kBlock) || Any(q, Codec::kMxfp8);
  if (groups) out["group_size"] = fp4 || mixed ? 16 : GroupSizeOf(q, *algorithms.begin());
  out["exclude_modules"] = q.unquantized;
  if (!mixed) return out;
  // Readers look experts up by the name of their container, of which one entry per layer is enough.
  const AlikeExperts alike(q);
  ordered_json layers = ordered_json::object();
  for (const QuantizedModule& module : q.quantized) {
    const std::string experts = ExpertsOf(module.name);
    const std::string algorithm = AlgorithmOf(module);
    layers[!experts.empty() && alike(experts) ? experts : module.name] = {{"quant_algo", algorithm},
                                                                          {"group_size", GroupSizeOf(q, algorithm)}};
  }
  out["quantized_layers"] = std::move(layers);
  return out;
}

// "modelopt" is what readers recognise the format by; the version is the one whose form this is.
ordered_json Producer() {
  return {{"name", "modelopt"}, {"version", "0.47.0"}, {"written_by", "mimo-convert"}};
}

// How ModelOpt's own converter words one algorithm for config.json.
ordered_json ModelOptGroup(const std::string& algorithm, int64_t group_size, ordered_json targets) {
  ordered_json group;
  const int bits = algorithm == "MXFP8" || algorithm.starts_with("FP8") ? 8 : 4;
  const ordered_json args = {{"dynamic", false}, {"num_bits", bits}, {"type", "float"}, {"group_size", group_size}};
  if (algorithm.starts_with("FP8")) {
    group["quant_algo"] = algorithm;
  } else {
    if (algorithm != "W4A16_NVFP4") group["input_activations"] = args;
    group["weights"] = args;
  }
  group["targets"] = std::move(targets);
  return group;
}

ordered_json ModelOptConfig(const HfQuantization& q) {
  const ordered_json quantization = ModelOptQuantization(q);
  ordered_json config;
  ordered_json groups = ordered_json::object();
  if (quantization.contains("quantized_layers")) {
    std::vector<std::pair<std::string, std::set<std::string>>> by_algorithm;  // in order of appearance
    for (const auto& entry : quantization["quantized_layers"].items()) {
      const auto algorithm = entry.value()["quant_algo"].get<std::string>();
      auto it = std::find_if(by_algorithm.begin(), by_algorithm.end(),
                             [&](const auto& group) { return group.first == algorithm; });
      if (it == by_algorithm.end()) it = by_algorithm.insert(by_algorithm.end(), {algorithm, {}});
      it->second.insert(entry.key());
    }
    for (const auto& [algorithm, names] : by_algorithm)
      groups["group_" + std::to_string(groups.size())] = ModelOptGroup(algorithm, GroupSizeOf(q, algorithm), names);
    config["config_groups"] = std::move(groups);
    config["quantized_layers"] = quantization["quantized_layers"];
  } else if (Any(q, Codec::kNvfp4)) {  // the converter has no groups for MXFP8 and FP8_PB_WO alone
    const auto algorithm = quantization["quant_algo"].get<std::string>();
    groups["group_0"] = ModelOptGroup(algorithm, GroupSizeOf(q, algorithm), ordered_json::array({"Linear"}));
    config["config_groups"] = std::move(groups);
  }
  config["ignore"] = quantization["exclude_modules"];
  config["quant_algo"] = quantization["quant_algo"];
  if (!q.kv_cache_scheme.empty()) config[kCacheSchemeKey] = CacheScheme(q);
  config["producer"] = Producer();
  config["quant_method"] = "modelopt";
  return config;
}

// ---- compressed-tensors ---------------------------------------------------------------------------------------------

// The presets of compressed-tensors: NVFP4A16 and NVFP4, MXFP4A16, MXFP8, FP8_BLOCK.
ordered_json CompressedGroup(const HfQuantization& q, Codec codec, bool input_scale, ScaleSpan span) {
  const bool nvfp4 = codec == Codec::kNvfp4;
  ordered_json weights = {
      {"num_bits", kernels::ElementBits(codec)}, {"type", "float"}, {"symmetric", true}, {"dynamic", false}};
  ordered_json group = ordered_json::object();
  group["format"] = NamesOf(codec).format;
  if (codec == Codec::kFp8Block && span != ScaleSpan::kBlock) {  // the presets FP8_DYNAMIC and FP8
    weights["strategy"] = span == ScaleSpan::kRow ? "channel" : "tensor";
    group["weights"] = std::move(weights);
    group["input_activations"] = {{"num_bits", 8},
                                  {"type", "float"},
                                  {"symmetric", true},
                                  {"dynamic", !input_scale},
                                  {"strategy", input_scale ? "tensor" : "token"}};
    return group;
  }
  if (codec == Codec::kFp8Block) {
    weights["strategy"] = "block";
    weights["block_structure"] = {q.fp8_block_rows, q.fp8_block_cols};
    group["weights"] = std::move(weights);
    group["input_activations"] = {{"num_bits", 8},   {"type", "float"},     {"symmetric", true},
                                  {"dynamic", true}, {"strategy", "group"}, {"group_size", q.fp8_block_cols}};
    return group;
  }
  weights["strategy"] = nvfp4 ? "tensor_group" : "group";
  weights["group_size"] = kernels::GroupOf(codec);
  weights["scale_dtype"] = nvfp4 ? "torch.float8_e4m3fn" : "torch.uint8";
  group["weights"] = weights;
  if (codec == Codec::kMxfp8 || (nvfp4 && input_scale)) {
    ordered_json input = std::move(weights);
    input["dynamic"] = true;
    if (nvfp4) {
      input["dynamic"] = "local";  // block scales at run time, the global one from input_global_scale
      input["observer"] = "static_minmax";
    }
    group["input_activations"] = std::move(input);
  }
  return group;
}

// A pattern for exactly the projections of the experts below this name.
std::string ExpertsPattern(const std::string& experts, const std::set<std::string>& projections) {
  std::string pattern = "re:^";
  for (char c : experts) {
    if (c == '.') pattern += '\\';
    pattern += c;
  }
  pattern += "\\.\\d+\\.(";
  for (const std::string& projection : projections) pattern += (pattern.back() == '(' ? "" : "|") + projection;
  return pattern + ")$";
}

ordered_json CompressedConfig(const HfQuantization& q) {
  struct Group {
    Codec codec;
    bool input_scale;
    ScaleSpan span;
    std::vector<std::string> names;
  };
  std::vector<Group> groups;
  const AlikeExperts alike(q);
  std::map<std::string, std::set<std::string>> projections;
  for (const QuantizedModule& module : q.quantized) {
    auto it = std::find_if(groups.begin(), groups.end(), [&](const Group& group) {
      return group.codec == module.codec && group.input_scale == module.input_scale && group.span == module.span;
    });
    if (it == groups.end()) it = groups.insert(groups.end(), {module.codec, module.input_scale, module.span, {}});
    const std::string experts = ExpertsOf(module.name);
    if (!experts.empty() && alike(experts)) {
      const bool first = !projections.contains(experts);
      projections[experts].insert(module.name.substr(module.name.rfind('.') + 1));
      if (first) it->names.push_back(experts);
    } else {
      it->names.push_back(module.name);
    }
  }
  ordered_json config;
  ordered_json described = ordered_json::object();
  for (const Group& group : groups) {
    ordered_json entry = CompressedGroup(q, group.codec, group.input_scale, group.span);
    ordered_json targets = ordered_json::array();
    for (const std::string& name : group.names) {
      auto it = projections.find(name);
      targets.push_back(it == projections.end() ? name : ExpertsPattern(name, it->second));
    }
    // With one group, what is not ignored is quantized: the usual form, which every reader knows.
    entry["targets"] = groups.size() == 1 ? ordered_json::array({"Linear"}) : std::move(targets);
    described["group_" + std::to_string(described.size())] = std::move(entry);
  }
  config["quant_method"] = "compressed-tensors";
  config["format"] = groups.size() == 1 ? described["group_0"]["format"] : ordered_json("mixed-precision");
  config["quantization_status"] = "compressed";
  config["config_groups"] = std::move(described);
  config["ignore"] = q.unquantized;
  config[kCacheSchemeKey] = CacheScheme(q);
  return config;
}

}  // namespace

Result<std::string> QuantizationConfig(const HfQuantization& quantization, const std::string& source) {
  if (quantization.quantized.empty()) return std::string();
  const bool kept = quantization.keeps && !source.empty();
  if (kept && quantization.dialect == Dialect::kCompressedTensors) return KeptCompressedTensors(quantization, source);
  const bool rows = Any(quantization, ScaleSpan::kRow) || Any(quantization, ScaleSpan::kTensor);
  // A config that says nothing of weights that are kept gets the words that there are for them.
  if (quantization.keeps && !kept && rows) return CompressedConfig(quantization).dump();
  if (!kept || !rows) MIMO_RETURN_IF_ERROR(CheckCodecs(quantization));
  switch (quantization.dialect) {
    case Dialect::kModelOpt:
      MIMO_RETURN_IF_ERROR(CheckModelOpt(quantization));
      return ModelOptConfig(quantization).dump();
    case Dialect::kCompressedTensors:
      return CompressedConfig(quantization).dump();
    case Dialect::kNative:
      break;
  }
  if (source.empty()) return NativeConfig(quantization, nullptr).dump();
  MIMO_ASSIGN_OR_RETURN(const ordered_json before, ParseJson<ordered_json>(source, "quantization_config"));
  return NativeConfig(quantization, before).dump();
}

Result<std::string> HfQuantConfig(const HfQuantization& quantization) {
  if (quantization.dialect != Dialect::kModelOpt || quantization.quantized.empty()) return std::string();
  MIMO_RETURN_IF_ERROR(CheckCodecs(quantization));
  MIMO_RETURN_IF_ERROR(CheckModelOpt(quantization));
  ordered_json out;
  out["producer"] = Producer();
  out["quantization"] = ModelOptQuantization(quantization);
  return out.dump(2) + "\n";
}

}  // namespace mimo
