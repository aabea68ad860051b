#include "lib/model/config.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>

#include "lib/json/parse.h"
#include "lib/model/family.h"
#include "lib/model/file_names.h"

namespace mimo {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxNumber = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxLayers = 65536;  // bounds what a hostile file can make us allocate
constexpr int64_t kMaxExperts = 65536;
constexpr int64_t kMaxExpertsOfAllLayers = 1 << 20;  // releases have up to 35 000
constexpr int64_t kMaxRanks = 65536;
constexpr int64_t kMaxHeads = 1 << 20;  // of heads and of their dimensions: products stay far below 2^63

std::string Shown(const Json& value) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return text;
}

// Reads fields of one JSON object. The first failure is kept; what is read after it does not matter.
class Fields {
 public:
  Fields(const Json& object, std::string prefix, const std::string& path, std::optional<Error>& error)
      : object_(object), prefix_(std::move(prefix)), path_(path), error_(error) {}

  // Null counts as absent. "a.b" is b of the object a.
  const Json* Find(const char* key) const {
    const Json* at = &object_;
    for (std::string_view rest = key; !rest.empty();) {
      const size_t dot = std::min(rest.find('.'), rest.size());
      if (!at->is_object()) return nullptr;
      const auto it = at->find(std::string(rest.substr(0, dot)));
      if (it == at->end() || it->is_null()) return nullptr;
      at = &*it;
      rest.remove_prefix(std::min(dot + 1, rest.size()));
    }
    return at;
  }

  void Fail(const std::string& key, std::string expected, std::string found) {
    if (error_) return;
    Error error = BadInput("bad value of \"" + prefix_ + key + "\"")
                      .File(path_)
                      .Expected(std::move(expected))
                      .Found(std::move(found))
                      .Advice("correct config.json, or take it from the original repository again");
    error_ = std::move(error);
  }

  // An integer, or a string of one ("1280").
  std::optional<int64_t> IntegerOf(const std::string& key, const Json& value, int64_t low, int64_t high) {
    std::optional<int64_t> number;
    if (value.is_number_unsigned()) {
      uint64_t u = value.get<uint64_t>();
      if (u <= static_cast<uint64_t>(kMaxNumber)) number = static_cast<int64_t>(u);
    } else if (value.is_number_integer()) {
      number = value.get<int64_t>();
    } else if (value.is_string()) {
      const auto& s = value.get_ref<const std::string&>();
      int64_t parsed = 0;
      auto [end, ec] = std::from_chars(s.data(), s.data() + s.size(), parsed);
      if (ec == std::errc() && end == s.data() + s.size()) number = parsed;
    }
    if (number && *number >= low && *number <= high) return number;
    Fail(key, "an integer from " + std::to_string(low) + " to " + std::to_string(high), Shown(value));
    return std::nullopt;
  }

  std::optional<int64_t> OptionalInteger(const char* key, int64_t low, int64_t high = kMaxNumber) {
    const Json* value = Find(key);
    return value == nullptr ? std::nullopt : IntegerOf(key, *value, low, high);
  }

  int64_t Integer(const char* key, int64_t fallback, int64_t low = 1, int64_t high = kMaxNumber) {
    return OptionalInteger(key, low, high).value_or(fallback);
  }

  int64_t RequiredInteger(const char* key, int64_t high = kMaxNumber) {
    if (Find(key) == nullptr) Fail(key, "an integer from 1 to " + std::to_string(high), "nothing");
    return Integer(key, 1, 1, high);
  }

  bool Bool(const char* key) {
    const Json* value = Typed(key, &Json::is_boolean, "true or false");
    return value != nullptr && value->get<bool>();
  }

  std::string String(const char* key) {
    const Json* value = Typed(key, &Json::is_string, "a string");
    return value == nullptr ? "" : value->get<std::string>();
  }

  const Json* Object(const char* key) { return Typed(key, &Json::is_object, "an object"); }

  std::optional<double> OptionalNumber(const char* key) {
    const Json* value = Typed(key, &Json::is_number, "a number");
    return value == nullptr ? std::nullopt : std::optional(value->get<double>());
  }

  // Fields of an object inside this one.
  Fields Inner(const Json& object, const std::string& prefix) const {
    return Fields(object, prefix_ + prefix, path_, error_);
  }

  // A list of 0 and 1, one per layer.
  std::vector<uint8_t> Flags(const char* key, const Json& value, int64_t layers) {
    std::vector<uint8_t> flags(static_cast<size_t>(layers), 0);
    if (!value.is_array()) {
      Fail(key, "a list of 0 and 1", Shown(value));
      return flags;
    }
    if (value.size() != flags.size()) {
      Fail(key, std::to_string(layers) + " entries (num_hidden_layers)", std::to_string(value.size()) + " entries");
      return flags;
    }
    for (size_t i = 0; i < flags.size(); ++i) {
      const std::string element = std::string(key) + "[" + std::to_string(i) + "]";
      if (value[i].is_boolean()) {
        flags[i] = value[i].get<bool>() ? 1 : 0;
      } else if (auto flag = IntegerOf(element, value[i], 0, 1)) {
        flags[i] = static_cast<uint8_t>(*flag);
      }
    }
    return flags;
  }

 private:
  // Null also for a value of another type, which is a failure.
  const Json* Typed(const char* key, bool (Json::*is_type)() const noexcept, const char* expected) {
    const Json* value = Find(key);
    if (value == nullptr || (value->*is_type)()) return value;
    Fail(key, expected, Shown(*value));
    return nullptr;
  }

  const Json& object_;
  std::string prefix_;
  const std::string& path_;
  std::optional<Error>& error_;
};

// The same by what keys mean to a family. What a family has no key for is absent.
class ModelFields {
 public:
  ModelFields(Fields& fields, const Family& family) : fields_(fields), family_(family) {}

  // The key of `field` that is there, or else the one that would be written; "" where the family has none.
  std::string KeyOf(Field field) const {
    const ConfigKey* key = family_.KeyOf(field);
    if (key == nullptr) return "";
    for (const std::string& one : key->keys)
      if (fields_.Find(one.c_str()) != nullptr) return one;
    return key->keys.front();
  }

  std::optional<int64_t> OptionalInteger(Field field, int64_t low, int64_t high = kMaxNumber) const {
    const ConfigKey* key = family_.KeyOf(field);
    if (key == nullptr) return std::nullopt;
    const auto found = fields_.OptionalInteger(KeyOf(field).c_str(), low, high);
    return found ? found : key->fallback;
  }
  int64_t Integer(Field field, int64_t fallback, int64_t low = 1, int64_t high = kMaxNumber) const {
    return OptionalInteger(field, low, high).value_or(fallback);
  }
  // 0 where the family has no such thing.
  int64_t RequiredInteger(Field field, int64_t high = kMaxNumber) const {
    const ConfigKey* key = family_.KeyOf(field);
    if (key == nullptr) return 0;
    return key->fallback ? Integer(field, 0, 1, high) : fields_.RequiredInteger(KeyOf(field).c_str(), high);
  }
  bool Bool(Field field) const { return Has(field) && fields_.Bool(KeyOf(field).c_str()); }
  std::string String(Field field) const { return Has(field) ? fields_.String(KeyOf(field).c_str()) : ""; }
  std::optional<double> OptionalNumber(Field field) const {
    return Has(field) ? fields_.OptionalNumber(KeyOf(field).c_str()) : std::nullopt;
  }
  void Fail(Field field, std::string expected, std::string found) const {
    fields_.Fail(KeyOf(field), std::move(expected), std::move(found));
  }

  // 1 for each layer of a kind.
  std::vector<uint8_t> Layers(const LayerPattern& pattern, int64_t layers) const {
    std::vector<uint8_t> flags(static_cast<size_t>(layers), 0);
    const Json* value = pattern.key.empty() ? nullptr : fields_.Find(pattern.key.c_str());
    switch (pattern.kind) {
      case LayerPattern::Kind::kNoLayer:
        break;
      case LayerPattern::Kind::kAll:
        flags.assign(flags.size(), 1);
        break;
      case LayerPattern::Kind::kFlags:
        if (value != nullptr && value->is_number_integer()) {
          if (const auto every = fields_.IntegerOf(pattern.key, *value, 1, kMaxNumber))
            for (int64_t n = 1; n < layers; ++n) flags[static_cast<size_t>(n)] = n % *every == 0 ? 1 : 0;
        } else if (value != nullptr) {
          flags = fields_.Flags(pattern.key.c_str(), *value, layers);
        }
        break;
      case LayerPattern::Kind::kBehind: {
        const int64_t first = fields_.Integer(pattern.key.c_str(), 0, 0);
        for (int64_t n = first; n < layers; ++n) flags[static_cast<size_t>(n)] = 1;
        break;
      }
      case LayerPattern::Kind::kEvery: {
        const int64_t step = fields_.Integer(pattern.key.c_str(), 1, 1);
        for (int64_t n = 0; n < layers; ++n) flags[static_cast<size_t>(n)] = (n + 1) % step == 0 ? 1 : 0;
        Except(pattern.except, layers, &flags);
        break;
      }
      case LayerPattern::Kind::kWord:
        if (value != nullptr) flags = Worded(pattern, *value, layers);
        break;
    }
    return flags;
  }

 private:
  bool Has(Field field) const { return family_.KeyOf(field) != nullptr; }

  // Layers that a list names are not of the kind.
  void Except(const std::string& key, int64_t layers, std::vector<uint8_t>* flags) const {
    const Json* list = key.empty() ? nullptr : fields_.Find(key.c_str());
    if (list == nullptr) return;
    if (!list->is_array()) return fields_.Fail(key, "a list of layers", Shown(*list));
    for (const Json& one : *list)
      if (const auto layer = fields_.IntegerOf(key, one, 0, layers - 1)) (*flags)[static_cast<size_t>(*layer)] = 0;
  }

  std::vector<uint8_t> Worded(const LayerPattern& pattern, const Json& list, int64_t layers) const {
    std::vector<uint8_t> flags(static_cast<size_t>(layers), 0);
    const bool words =
        list.is_array() && std::all_of(list.begin(), list.end(), [](const Json& w) { return w.is_string(); });
    if (!words || list.size() != flags.size()) {
      fields_.Fail(pattern.key, std::to_string(layers) + " words, one per layer", Shown(list));
      return flags;
    }
    for (size_t i = 0; i < flags.size(); ++i) flags[i] = list[i].get_ref<const std::string&>() == pattern.word ? 1 : 0;
    return flags;
  }

  Fields& fields_;
  const Family& family_;
};

void ReadAttention(const ModelFields& fields, ModelConfig& config) {
  AttentionShape& global = config.global;
  global.heads = fields.RequiredInteger(Field::kHeads, kMaxHeads);
  global.kv_heads = fields.Integer(Field::kKvHeads, global.heads, 1, kMaxHeads);
  global.head_dim = fields.Integer(Field::kHeadDim, config.hidden / global.heads, 1, kMaxHeads);
  global.v_head_dim = fields.Integer(Field::kVHeadDim, global.head_dim, 1, kMaxHeads);
  AttentionShape& window = config.window;
  window.heads = fields.Integer(Field::kSwaHeads, global.heads, 1, kMaxHeads);
  window.kv_heads = fields.Integer(Field::kSwaKvHeads, global.kv_heads, 1, kMaxHeads);
  window.head_dim = fields.Integer(Field::kSwaHeadDim, global.head_dim, 1, kMaxHeads);
  window.v_head_dim = fields.Integer(Field::kSwaVHeadDim, global.v_head_dim, 1, kMaxHeads);
  for (const auto& [shape, field] : {std::pair(&global, Field::kKvHeads), std::pair(&window, Field::kSwaKvHeads)}) {
    if (shape->head_dim < 1) fields.Fail(Field::kHeadDim, "at least 1", std::to_string(shape->head_dim));
    if (shape->heads % shape->kv_heads != 0) {
      fields.Fail(field, "a divisor of the " + std::to_string(shape->heads) + " attention heads",
                  std::to_string(shape->kv_heads));
    }
  }
  config.global_sinks = fields.Bool(Field::kGlobalSinks);
  config.window_sinks = fields.Bool(Field::kWindowSinks);
  config.projection_layout = fields.String(Field::kProjectionLayout);
}

void ReadLayers(const ModelFields& fields, const Family& family, ModelConfig& config) {
  config.windowed = fields.Layers(family.windowed, config.layers);
  config.moe = fields.Layers(family.moe, config.layers);
  config.mtp_windowed = family.mtp.windowed;
  config.mtp_moe = family.mtp.moe;
  const bool any_moe = std::find(config.moe.begin(), config.moe.end(), 1) != config.moe.end();
  config.experts = any_moe ? fields.RequiredInteger(Field::kExperts, kMaxExperts)
                           : fields.Integer(Field::kExperts, 0, 0, kMaxExperts);
  const int64_t moe_layers = std::count(config.moe.begin(), config.moe.end(), 1);
  if (moe_layers * config.experts > kMaxExpertsOfAllLayers)
    fields.Fail(Field::kExperts, "at most " + std::to_string(kMaxExpertsOfAllLayers) + " experts in all layers",
                std::to_string(config.experts) + " in each of " + std::to_string(moe_layers));
  config.moe_intermediate =
      any_moe ? fields.RequiredInteger(Field::kMoeIntermediate) : fields.Integer(Field::kMoeIntermediate, 0, 0);
  config.shared_experts = fields.Integer(Field::kSharedExperts, 0, 0, kMaxExperts);
  config.nextn_layers = fields.OptionalInteger(Field::kMtpLayers, 0);
}

// compressed-tensors has the size of blocks with each group of weights; all groups of blocks have one.
const Json* BlockStructure(Fields& fields) {
  const Json* groups = fields.Find("config_groups");
  if (groups == nullptr || !groups->is_object()) return nullptr;
  for (const Json& group : *groups) {
    if (!group.is_object() || !group.contains("weights") || !group["weights"].is_object()) continue;
    const auto block = group["weights"].find("block_structure");
    if (block != group["weights"].end() && block->is_array()) return &*block;
  }
  return nullptr;
}

void ReadQuantization(Fields fields, ModelConfig& config) {
  config.quant_method = fields.String("quant_method");
  config.store_dtype = fields.String("store_dtype");
  config.scale_fmt = fields.String("scale_fmt");
  config.mxfp4_block = fields.Integer("mxfp4_block_size", config.mxfp4_block);
  const Json* block = fields.Find("weight_block_size");
  if (block == nullptr) block = BlockStructure(fields);
  if (block == nullptr) return;
  config.declares_blocks = true;
  if (!block->is_array() || block->size() != 2) {
    fields.Fail("weight_block_size", "two positive integers", Shown(*block));
    return;
  }
  config.block_rows = fields.IntegerOf("weight_block_size[0]", (*block)[0], 1, kMaxNumber).value_or(1);
  config.block_cols = fields.IntegerOf("weight_block_size[1]", (*block)[1], 1, kMaxNumber).value_or(1);
}

// True, or a list of the names that it holds for.
void ReadCacheVectors(Fields* fields, LayoutMarker* marker) {
  const Json* value = fields->Find("cache_vectors");
  if (value == nullptr) return;
  const bool names =
      value->is_array() && std::all_of(value->begin(), value->end(), [](const Json& name) { return name.is_string(); });
  if (names)
    marker->cache_vector_names = value->get<std::vector<std::string>>();
  else if (value->is_boolean())
    marker->cache_vectors = value->get<bool>();
  else
    fields->Fail("cache_vectors", "true, false or a list of names", Shown(*value));
}

void ReadMarker(Fields fields, ModelConfig& config) {
  LayoutMarker marker;
  if (fields.Integer("version", 0) != 1) {
    fields.Fail("version", "1", fields.Find("version") == nullptr ? "nothing" : Shown(*fields.Find("version")));
  }
  const std::string qkv = fields.String("qkv");
  marker.fused = qkv == "fused";
  if (!marker.fused && qkv != "split")
    fields.Fail("qkv", "\"fused\" or \"split\"", qkv.empty() ? "nothing" : "\"" + qkv + "\"");
  marker.chunks = fields.RequiredInteger("chunks", kMaxHeads);
  marker.independent = fields.String("grid") == "independent";
  marker.kv_heads = fields.RequiredInteger("kv_heads", config.global.heads);
  marker.swa_kv_heads = fields.RequiredInteger("swa_kv_heads", config.window.heads);
  if (const std::string form = fields.String("form"); !form.empty()) {
    const std::optional<FormKind> known = FromWord(kWrittenForms, form);
    marker.form = known.value_or(FormKind::kHf);
    if (!known) fields.Fail("form", "\"" + Joined(kWrittenForms, "\", \"", "\" or \"") + "\"", "\"" + form + "\"");
  }
  marker.table = fields.String("table");
  if (IsOfRanks(marker.form)) {
    marker.tp = fields.RequiredInteger("tp", kMaxRanks);
    marker.ep = fields.RequiredInteger("ep", kMaxRanks);
  }
  marker.expert_codes = FromWord(kExpertCodes, fields.String("expert_codes"));
  marker.centred = fields.String("router_bias") == WordOf(kRouterBiases, RouterBias::kCentred);
  marker.folded = fields.String("folded_value_scale");
  marker.recoded = fields.Bool("recoded");
  marker.router = DTypeFromName(fields.String("router"));
  ReadCacheVectors(&fields, &marker);
  if (const Json* source = fields.Object("source")) {
    Fields inner = fields.Inner(*source, "source.");
    const std::string made_from = inner.String("qkv");
    marker.source = MarkedLayout{made_from == "fused", inner.RequiredInteger("chunks", kMaxHeads),
                                 inner.String("grid") == "independent"};
    if (!marker.source->fused && made_from != "split")
      fields.Fail("source.qkv", "\"fused\" or \"split\"", "\"" + made_from + "\"");
  }
  if (const Json* unpadded = fields.Object("unpadded")) {
    Fields inner = fields.Inner(*unpadded, "unpadded.");
    UnpaddedDimensions& d = marker.unpadded.emplace();
    // What was padded is as large as the config says, and padding adds.
    d.heads = inner.RequiredInteger("heads", config.global.heads);
    d.kv_heads = inner.RequiredInteger("kv_heads", config.global.heads);
    d.swa_heads = inner.RequiredInteger("swa_heads", config.window.heads);
    d.swa_kv_heads = inner.RequiredInteger("swa_kv_heads", config.window.heads);
    if (config.intermediate > 0) d.intermediate = inner.RequiredInteger("intermediate", config.intermediate);
    d.moe_intermediate = inner.RequiredInteger(
        "moe_intermediate", config.moe_intermediate > 0 ? config.moe_intermediate : kMaxNumber);  // none: of no weight
    d.vocab = inner.RequiredInteger("vocab", config.vocab);
  }
  config.marker = std::move(marker);
}

void ReadArchitectures(Fields& fields, ModelConfig& config) {
  const Json* list = fields.Find("architectures");
  if (list == nullptr) return;
  if (list->is_array() && std::all_of(list->begin(), list->end(), [](const Json& name) { return name.is_string(); }))
    config.architectures = list->get<std::vector<std::string>>();
  else
    fields.Fail("architectures", "a list of strings", Shown(*list));
}

Error NotJson(const std::string& path) {
  return BadInput("not a model configuration")
      .File(path)
      .Advice("take config.json from the release that the tensors are of");
}

// What most of the keys of a family are in.
std::string LooksLike(const Json& json) {
  const auto all = Family::All();
  if (!all.ok()) return "";
  std::string best;
  size_t most = 0;
  for (const Family* family : *all.value()) {
    size_t there = 0, fields = 0;
    for (const auto& [field, word] : kFields) {
      const ConfigKey* key = family->KeyOf(field);
      if (key == nullptr) continue;
      ++fields;
      there += std::any_of(key->keys.begin(), key->keys.end(), [&](const std::string& k) { return json.contains(k); });
    }
    if (there * 3 < fields * 2 || there < most) continue;
    best = there == most ? "" : family->title;
    most = there;
  }
  return best.empty() ? "" : "; its keys are those of " + best;
}

Result<const Family*> FamilyOf(const ModelConfig& config, const Json& json) {
  MIMO_ASSIGN_OR_RETURN(const Family* family, Family::Of(config.model_type, config.architectures,
                                                         [&](const std::string& key) { return json.contains(key); }));
  if (family != nullptr) return family;
  std::string found = config.model_type.empty() ? "no model_type" : "model_type \"" + config.model_type + "\"";
  if (!config.architectures.empty()) found += ", architectures \"" + config.architectures.front() + "\"";
  return BadInput("a model of a family that is not known")
      .Id("model.unknown_family")
      .File(config.path)
      .Expected("one of " + KnownFamilies(true))
      .Found(found + LooksLike(json))
      .Advice(
          "a finetune of one of these keeps its model_type; another family is a description of its own "
          "(docs/adding-a-model.md)");
}

}  // namespace

Result<ModelConfig> ParseModelConfig(const std::string& text, const std::string& path) {
  Result<Json> parsed = ParseJson<Json>(text, path);
  if (!parsed.ok()) return NotJson(path).Expected(parsed.error().expected).Found(parsed.error().found);
  const Json json = std::move(parsed).value();
  if (!json.is_object()) return NotJson(path).Expected("a JSON object").Found(Shown(json));

  std::optional<Error> error;
  Fields fields(json, "", path, error);
  ModelConfig config;
  config.text = text;
  config.path = path;
  config.model_type = fields.String("model_type");
  ReadArchitectures(fields, config);
  if (error) return *std::move(error);
  MIMO_ASSIGN_OR_RETURN(config.family, FamilyOf(config, json));
  const Family& family = *config.family;
  const ModelFields model(fields, family);
  config.hidden = model.RequiredInteger(Field::kHidden);
  config.layers = model.RequiredInteger(Field::kLayers, kMaxLayers);
  config.vocab = model.RequiredInteger(Field::kVocab);
  config.intermediate = model.RequiredInteger(Field::kIntermediate);
  config.tied_embeddings = model.Bool(Field::kTiedEmbeddings);
  config.router_dtype = model.String(Field::kRouterDType);
  config.value_scale = model.OptionalNumber(Field::kValueScale);
  for (const auto& [name, flag] : family.flags)
    config.flags[name] = fields.Find(flag.key.c_str()) == nullptr ? flag.fallback : fields.Bool(flag.key.c_str());
  ReadAttention(model, config);
  ReadLayers(model, family, config);
  config.has_vision = fields.Object("vision_config") != nullptr;
  config.has_audio = fields.Object("audio_config") != nullptr;
  if (const Json* quantization = fields.Object("quantization_config")) {
    ReadQuantization(Fields(*quantization, "quantization_config.", path, error), config);
  }
  if (const Json* marker = fields.Object(kLayoutKey)) {
    ReadMarker(Fields(*marker, "mimo_layout.", path, error), config);
  }
  if (error) return *std::move(error);
  return config;
}

}  // namespace mimo
