// Recipes as JSON: schemas/recipe.schema.json, docs/recipes.md.
#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>

#include "lib/base/pattern.h"
#include "lib/json/parse.h"
#include "lib/model/role_groups.h"
#include "lib/recipe/recipe_words.h"
#include "schemas/embedded.h"

namespace mimo {
namespace {

using Json = nlohmann::json;  // keys sorted: canonical, and found fast in long lists of scales

constexpr uint64_t kMaxRecipeBytes = 64u << 20;
constexpr uint32_t kMaxBlock = 1u << 20;
constexpr std::string_view kFolder = "recipes/";
constexpr std::string_view kExtension = ".json";

std::string Shown(const Json& value) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return text;
}

constexpr char kMultiplier[] = "a finite number greater than 0, also as FP32";
std::optional<float> Multiplier(const Json& value) {
  const double number = value.is_number() ? value.get<double>() : 0;
  if (!(number > 0 && number <= std::numeric_limits<float>::max())) return std::nullopt;
  const auto multiplier = static_cast<float>(number);
  return multiplier > 0 ? std::optional(multiplier) : std::nullopt;
}

// Rules on these can never mean anything: they are vectors, which no rule touches.
bool IsVector(Role role) {
  return IsNorm(role) || role == Role::kAttnSink || IsAttentionBias(role) || role == Role::kRouterBias ||
         IsCacheScale(role) || role == Role::kUnknown;
}
bool IsQuantized(StoredAs to) {
  const std::optional<kernels::Codec> codec = CodecOf(to);
  return codec && !IsValueCodec(*codec);
}

// Reads one recipe. The first failure is kept; what is read after it does not matter.
class RecipeReader {
 public:
  explicit RecipeReader(const std::string& path) : path_(path) {}

  Result<Recipe> Read(const std::string& text) {
    const Result<Json> parsed = ParseJson<Json>(text, path_);
    if (!parsed.ok() || !parsed.value().is_object()) {
      Fail(UsageError("a recipe is a JSON object")
               .Expected(parsed.ok() ? "an object" : parsed.error().expected)
               .Found(parsed.ok() ? Shown(parsed.value()) : parsed.error().found));
      return *std::move(error_);
    }
    const Json& json = parsed.value();
    Only(json, "",
         {"$schema", "name", "summary", "dialect", "qkv", "rules", "engines", "nvfp4_rule", "mx_rule", "mx_ties",
          "fp8_power_of_two", "fp8_block", "via_bf16", "w4a4", "input_scale", "input_scales"});
    recipe_.name = Text(json, "", "name", true);
    recipe_.summary = Text(json, "", "summary", false);
    recipe_.dialect = Word(json, "dialect", kDialects, recipe_.dialect);
    ReadQkv(json);
    ReadRules(json);
    ReadEngines(json);
    ReadEncoding(json);
    ReadActivations(json);
    if (!error_) CheckTogether(json);
    if (error_) return *std::move(error_);
    return std::move(recipe_);
  }

 private:
  void Fail(Error error) {
    if (!error_) error_ = std::move(error).File(path_).Advice("see docs/recipes.md");
  }
  void BadValue(const std::string& where, const std::string& key, std::string expected, const Json& found) {
    Fail(UsageError("bad value of \"" + where + key + "\"").Expected(std::move(expected)).Found(Shown(found)));
  }

  void Only(const Json& object, const std::string& where, std::initializer_list<std::string_view> known) {
    for (const auto& item : object.items()) {
      bool found = false;
      std::string list;
      for (std::string_view key : known) {
        found |= key == item.key();
        list += (list.empty() ? "" : ", ") + std::string(key);
      }
      if (!found)
        Fail(UsageError("a key that no recipe has").Expected("one of " + list).Found("\"" + where + item.key() + "\""));
    }
  }
  static const Json* Find(const Json& object, const char* key) {
    const auto it = object.find(key);
    return it == object.end() ? nullptr : &*it;
  }
  std::string Text(const Json& object, const std::string& where, const char* key, bool required) {
    const Json* value = Find(object, key);
    if (value == nullptr) {
      if (required) Fail(UsageError("\"" + where + key + "\" is missing").Expected("a string").Found("nothing"));
      return "";
    }
    if (value->is_string() && !(required && value->get_ref<const std::string&>().empty()))
      return value->get<std::string>();
    BadValue(where, key, "a string that is not empty", *value);
    return "";
  }
  bool Bool(const Json& object, const std::string& where, const char* key, bool fallback) {
    const Json* value = Find(object, key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) BadValue(where, key, "true or false", *value);
    return value->is_boolean() ? value->get<bool>() : fallback;
  }
  const Json* List(const Json& object, const std::string& where, const char* key, bool required) {
    const Json* value = Find(object, key);
    if (value == nullptr) {
      if (required) Fail(UsageError("\"" + where + key + "\" is missing").Expected("a list").Found("nothing"));
      return nullptr;
    }
    if (value->is_array()) return value;
    BadValue(where, key, "a list", *value);
    return nullptr;
  }

  // One of `words`, or `usual`.
  template <class T, size_t N>
  T Word(const Json& json, const char* key, const Words<T, N>& words, T usual) {
    const Json* value = Find(json, key);
    if (value == nullptr) return usual;
    const std::optional<T> word = FromWord(words, Text(json, "", key, true));
    if (!word) BadValue("", key, Joined(words, ", ", " or "), *value);
    return word.value_or(usual);
  }

  void ReadQkv(const Json& json) {
    if (Find(json, "qkv") == nullptr) return;
    const std::string qkv = Text(json, "", "qkv", true);
    const QkvWish wish(qkv);
    const bool keep = wish.kind == QkvWish::Kind::kKeep;
    bool good = keep || (!wish.chunks && (wish.kind == QkvWish::Kind::kSplit || wish.kind == QkvWish::Kind::kFused));
    if (qkv.starts_with("fused:")) {
      const std::string chunks = qkv.substr(6);
      good = !chunks.empty() && chunks.size() <= 6 && chunks[0] != '0' &&
             chunks.find_first_not_of("0123456789") == std::string::npos;
    }
    if (!good) BadValue("", "qkv", "keep, split, fused or fused:C", json["qkv"]);
    if (!keep) recipe_.qkv = wish;
  }

  void ReadRules(const Json& json) {
    const Json* rules = List(json, "", "rules", true);
    if (rules == nullptr) return;
    if (rules->empty()) BadValue("", "rules", "at least one rule", *rules);
    for (const Json& entry : *rules) {
      const std::string where = "rules[" + std::to_string(recipe_.rules.size()) + "].";
      if (!entry.is_object())
        return Fail(UsageError("a rule is an object").Expected("{\"roles\": [...], \"to\": ...}").Found(Shown(entry)));
      Only(entry, where, {"roles", "mtp", "names", "to", "optional", "released"});
      RecipeRule rule;
      ReadTarget(entry, where, &rule);
      ReadRoles(entry, where, &rule);
      if (Find(entry, "mtp") != nullptr) rule.mtp = Bool(entry, where, "mtp", false);
      rule.optional = Bool(entry, where, "optional", false);
      rule.released = Bool(entry, where, "released", false);
      if (Find(entry, "names") != nullptr) rule.names = Text(entry, where, "names", true);
      if (const Result<Pattern> pattern = Pattern::Make(rule.names); !pattern.ok())
        Fail(UsageError("bad pattern in \"" + where + "names\"")
                 .Expected("a regular expression")
                 .Found(rule.names + " (" + pattern.error().advice + ")"));
      recipe_.rules.push_back(std::move(rule));
    }
  }

  void ReadTarget(const Json& entry, const std::string& where, RecipeRule* rule) {
    const std::string to = Text(entry, where, "to", true);
    const auto stored_as = FromWord(kStoredAs, to);
    if (stored_as)
      rule->to = *stored_as;
    else
      Fail(UsageError("bad value of \"" + where + "to\"")
               .Expected(Joined(kStoredAs, ", ", " or "))
               .Found("\"" + to + "\""));
  }

  void ReadRoles(const Json& entry, const std::string& where, RecipeRule* rule) {
    const Json* roles = List(entry, where, "roles", false);
    if (roles == nullptr) return;
    if (roles->empty()) BadValue(where, "roles", "at least one role, or no such key", *roles);
    for (const Json& name : *roles) {
      const auto role = name.is_string() ? RoleFromName(name.get_ref<const std::string&>()) : std::nullopt;
      if (!role) return BadValue(where, "roles", "names of roles, such as expert.gate or attn.q", name);
      if (IsVector(*role)) return BadValue(where, "roles", "roles of matrices: no rule touches vectors", name);
      if (IsTower(*role) && IsQuantized(rule->to))
        return BadValue(where, "roles", "a role that can be quantized: towers are kept, or bf16, fp16 or fp32", name);
      rule->roles.push_back(*role);
    }
  }

  void ReadEngines(const Json& json) {
    const Json* engines = List(json, "", "engines", false);
    if (engines == nullptr) return;
    for (const Json& entry : *engines) {
      const std::string where = "engines[" + std::to_string(recipe_.engines.size()) + "].";
      if (!entry.is_object())
        return Fail(
            UsageError("an engine is an object").Expected("{\"name\": ..., \"status\": ...}").Found(Shown(entry)));
      Only(entry, where, {"name", "status", "evidence", "models"});
      RecipeEngine engine;
      engine.name = Text(entry, where, "name", true);
      engine.status = Text(entry, where, "status", true);
      engine.evidence = Text(entry, where, "evidence", true);
      if (engine.status != "loads" && engine.status != "unproven" && engine.status != "refuses")
        Fail(UsageError("bad value of \"" + where + "status\"")
                 .Expected("loads, unproven or refuses")
                 .Found("\"" + engine.status + "\""));
      ReadModels(entry, where, &engine);
      recipe_.engines.push_back(std::move(engine));
    }
  }

  void ReadModels(const Json& entry, const std::string& where, RecipeEngine* engine) {
    const Json* models = List(entry, where, "models", false);
    if (models == nullptr) return;
    if (models->empty()) BadValue(where, "models", "at least one family, or no such key", *models);
    for (const Json& name : *models) {
      if (!name.is_string()) return BadValue(where, "models", "names of families", name);
      engine->models.push_back(name.get<std::string>());
    }
  }

  void ReadEncoding(const Json& json) {
    recipe_.nvfp4_rule = Word(json, "nvfp4_rule", kNvfp4Rules, recipe_.nvfp4_rule);
    recipe_.mx_rule = Word(json, "mx_rule", kMxRules, recipe_.mx_rule);
    recipe_.mx_ties = Word(json, "mx_ties", kTies, recipe_.mx_ties);
    recipe_.via_bf16 = Bool(json, "", "via_bf16", false);
    recipe_.fp8_power_of_two = Bool(json, "", "fp8_power_of_two", false);
    const Json* block = List(json, "", "fp8_block", false);
    if (block == nullptr) return;
    const auto extent = [&](size_t i) -> uint32_t {
      if (block->size() != 2 || !(*block)[i].is_number_unsigned()) return 0;
      const auto value = (*block)[i].get<uint64_t>();
      return value > kMaxBlock ? 0 : static_cast<uint32_t>(value);
    };
    recipe_.fp8_block_rows = extent(0);
    recipe_.fp8_block_cols = extent(1);
    if (recipe_.fp8_block_rows == 0 || recipe_.fp8_block_cols == 0 || recipe_.fp8_block_cols % 32 != 0)
      BadValue("", "fp8_block", "[rows, columns], both at least 1, columns a multiple of 32", *block);
  }

  void ReadActivations(const Json& json) {
    recipe_.w4a4 = Bool(json, "", "w4a4", false);
    if (const Json* value = Find(json, "input_scale")) {
      const auto multiplier = Multiplier(*value);
      if (!multiplier) return BadValue("", "input_scale", kMultiplier, *value);
      recipe_.input_scale = *multiplier;
    }
    if (const Json* scales = Find(json, "input_scales")) {
      if (!scales->is_object()) return BadValue("", "input_scales", "an object of module names", *scales);
      for (const auto& item : scales->items()) {
        const auto multiplier = Multiplier(item.value());
        if (!multiplier) return BadValue("input_scales.", item.key(), kMultiplier, item.value());
        recipe_.input_scales.emplace_back(item.key(), *multiplier);
      }
      std::sort(recipe_.input_scales.begin(), recipe_.input_scales.end());
    }
  }

  bool Writes(StoredAs to) const {
    return std::any_of(recipe_.rules.begin(), recipe_.rules.end(),
                       [to](const RecipeRule& rule) { return rule.to == to; });
  }

  // An option whose target no rule has, and a type that the dialect does not have.
  void CheckTogether(const Json& json) {
    const Recipe defaults;
    const auto useless = [&](bool set, const char* key, bool used, const char* target) {
      if (set && !used)
        Fail(UsageError("\"" + std::string(key) + "\" contradicts the rules").Expected(target).Found("no such rule"));
    };
    const bool nvfp4 = Writes(StoredAs::kNvfp4), mxfp4 = Writes(StoredAs::kMxfp4), fp8 = Writes(StoredAs::kFp8);
    const bool mx = mxfp4 || Writes(StoredAs::kMxfp8);
    useless(recipe_.nvfp4_rule != defaults.nvfp4_rule, "nvfp4_rule", nvfp4, "a rule to nvfp4");
    useless(recipe_.mx_rule != defaults.mx_rule, "mx_rule", mx, "a rule to mxfp4 or mxfp8");
    useless(recipe_.mx_ties != defaults.mx_ties, "mx_ties", mxfp4, "a rule to mxfp4");
    useless(recipe_.fp8_power_of_two, "fp8_power_of_two", fp8, "a rule to fp8");
    useless(recipe_.fp8_block_rows != defaults.fp8_block_rows || recipe_.fp8_block_cols != defaults.fp8_block_cols,
            "fp8_block", fp8, "a rule to fp8");
    useless(recipe_.via_bf16, "via_bf16", nvfp4 || mx || fp8, "a rule to nvfp4, mxfp4, mxfp8 or fp8");
    useless(recipe_.w4a4, "w4a4", nvfp4, "a rule to nvfp4");
    for (const char* key : {"input_scale", "input_scales"})
      if (Find(json, key) != nullptr && !recipe_.w4a4)
        Fail(UsageError("\"" + std::string(key) + "\" without \"w4a4\"")
                 .Expected("\"w4a4\": true")
                 .Found("weights only"));
    for (const RecipeRule& rule : recipe_.rules) {
      if (!IsQuantized(rule.to) || ArraysOf(recipe_.dialect, *CodecOf(rule.to))) continue;
      Fail(UsageError("the dialect " + std::string(WordOf(kDialects, recipe_.dialect)) + " has no " +
                      std::string(WordOf(kStoredAs, rule.to)) + " weights")
               .Expected("a dialect that has them")
               .Found("\"to\": \"" + std::string(WordOf(kStoredAs, rule.to)) + "\""));
    }
    if (recipe_.dialect == Dialect::kModelOpt && recipe_.fp8_block_rows != recipe_.fp8_block_cols)
      BadValue("", "fp8_block", "as many rows as columns in the dialect modelopt", json["fp8_block"]);
  }

  const std::string& path_;
  Recipe recipe_;
  std::optional<Error> error_;
};

Json RuleJson(const RecipeRule& rule) {
  Json json = Json::object();
  if (!rule.roles.empty()) {
    json["roles"] = Json::array();
    for (Role role : rule.roles) json["roles"].push_back(RoleName(role));
  }
  if (rule.mtp) json["mtp"] = *rule.mtp;
  if (!rule.names.empty()) json["names"] = rule.names;
  json["to"] = WordOf(kStoredAs, rule.to);
  if (rule.optional) json["optional"] = true;
  if (rule.released) json["released"] = true;
  return json;
}

}  // namespace

Result<Recipe> ParseRecipe(const std::string& text, const std::string& path) {
  return RecipeReader(path).Read(text);
}

Result<std::vector<std::pair<std::string, float>>> ParseInputScales(const std::string& text, const std::string& path) {
  constexpr char kForm[] = "a JSON object of numbers by module name";
  const Result<Json> document = ParseJson<Json>(text, path, {.bytes = size_t{256} << 20});
  if (!document.ok() || !document.value().is_object())
    return UsageError("not a file of input scales")
        .File(path)
        .Expected(document.ok() ? kForm : document.error().expected)
        .Found(document.ok() ? Shown(document.value()) : document.error().found);
  std::vector<std::pair<std::string, float>> scales;  // ascending, as the keys are
  for (const auto& [module, value] : document.value().items()) {
    const auto multiplier = Multiplier(value);
    if (!multiplier)
      return UsageError("not an input scale: " + module).File(path).Expected(kMultiplier).Found(Shown(value));
    scales.emplace_back(module, *multiplier);
  }
  return scales;
}

std::string RecipeJson(const Recipe& recipe) {
  const Recipe defaults;
  Json json;
  json["name"] = recipe.name;
  if (!recipe.summary.empty()) json["summary"] = recipe.summary;
  json["dialect"] = WordOf(kDialects, recipe.dialect);
  if (recipe.qkv) json["qkv"] = recipe.qkv->text;
  json["rules"] = Json::array();
  for (const RecipeRule& rule : recipe.rules) json["rules"].push_back(RuleJson(rule));
  if (!recipe.engines.empty()) json["engines"] = Json::array();
  for (const RecipeEngine& engine : recipe.engines) {
    json["engines"].push_back({{"name", engine.name}, {"status", engine.status}, {"evidence", engine.evidence}});
    if (!engine.models.empty()) json["engines"].back()["models"] = engine.models;
  }
  if (recipe.nvfp4_rule != defaults.nvfp4_rule) json["nvfp4_rule"] = WordOf(kScaleRules, recipe.nvfp4_rule);
  if (recipe.mx_rule != defaults.mx_rule) json["mx_rule"] = WordOf(kScaleRules, recipe.mx_rule);
  if (recipe.mx_ties != defaults.mx_ties) json["mx_ties"] = WordOf(kTies, recipe.mx_ties);
  if (recipe.fp8_power_of_two) json["fp8_power_of_two"] = true;
  if (recipe.fp8_block_rows != defaults.fp8_block_rows || recipe.fp8_block_cols != defaults.fp8_block_cols)
    json["fp8_block"] = Json::array({recipe.fp8_block_rows, recipe.fp8_block_cols});
  if (recipe.via_bf16) json["via_bf16"] = true;
  if (recipe.w4a4) {
    json["w4a4"] = true;
    json["input_scale"] = static_cast<double>(recipe.input_scale);
    if (!recipe.input_scales.empty()) json["input_scales"] = Json::object();
    for (const auto& [module, scale] : recipe.input_scales) json["input_scales"][module] = static_cast<double>(scale);
  }
  return json.dump();
}

std::vector<std::string> RecipeNames() {
  std::vector<std::string> names;
  for (const EmbeddedFile* file = kEmbeddedFiles; file->path != nullptr; ++file) {
    std::string_view path = file->path;
    if (!path.starts_with(kFolder) || !path.ends_with(kExtension)) continue;
    path.remove_prefix(kFolder.size());
    path.remove_suffix(kExtension.size());
    names.emplace_back(path);
  }
  std::sort(names.begin(), names.end());
  return names;
}

Result<Recipe> FindRecipe(FileSystem& fs, const std::string& name) {
  if (name.find('/') != std::string::npos || name.ends_with(kExtension)) {
    MIMO_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(fs, name, kMaxRecipeBytes));
    return ParseRecipe(text, name);
  }
  const std::string path = std::string(kFolder) + name + std::string(kExtension);
  for (const EmbeddedFile* file = kEmbeddedFiles; file->path != nullptr; ++file)
    if (path == file->path) return ParseRecipe(file->content, "schemas/" + path);
  Error e = UsageError("no recipe of this name");
  for (const std::string& known : RecipeNames()) e.expected += (e.expected.empty() ? "one of " : ", ") + known;
  e.found = name;
  e.advice = "name one of these, or a file that ends in .json";
  return e;
}

}  // namespace mimo
