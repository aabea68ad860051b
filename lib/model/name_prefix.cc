#include "lib/model/name_prefix.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "lib/json/parse.h"
#include "lib/model/file_names.h"
#include "lib/model/role_groups.h"
#include "schemas/embedded.h"

namespace mimo {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kPath = "foreign.json";
constexpr size_t kMaxPrefixes = 3;  // in front of each other

struct Rule {
  std::string from, to;
};

struct Rules {
  std::vector<Rule> prefixes, renamed;
};

std::vector<Rule> ReadRules(const ordered_json& table, const char* key) {
  std::vector<Rule> rules;
  if (auto list = table.find(key); list != table.end())
    for (const ordered_json& entry : *list) rules.push_back({entry.value("from", ""), entry.value("to", "")});
  return rules;
}

const Rules& AllRules() {
  static const Rules rules = [] {
    for (const EmbeddedFile* file = kEmbeddedFiles; file->path != nullptr; ++file) {
      if (file->path != kPath) continue;
      if (const auto table = ParseJson<ordered_json>(file->content, "schemas/foreign.json"); table.ok())
        return Rules{ReadRules(table.value(), "prefixes"), ReadRules(table.value(), "renamed")};
    }
    return Rules();
  }();
  return rules;
}

using Steps = std::vector<const Rule*>;

bool Apply(const Rule& rule, std::string* name) {
  if (!name->starts_with(rule.from)) return false;
  *name = rule.to + name->substr(rule.from.size());
  return true;
}

bool IsKnown(const ModelTable& table, const std::string& name) {
  return table.Identify(name).role != Role::kUnknown;
}

// The fewest rules that make a known name of this one.
std::optional<Steps> StepsFor(const ModelTable& table, const std::string& name, size_t left = kMaxPrefixes) {
  if (IsKnown(table, name)) return Steps();
  std::optional<Steps> best;
  for (const Rule& rule : AllRules().prefixes) {
    std::string next = name;
    if (left == 0 || !Apply(rule, &next)) continue;
    std::optional<Steps> rest = StepsFor(table, next, left - 1);
    if (!rest || (best && best->size() <= rest->size() + 1)) continue;
    rest->insert(rest->begin(), &rule);
    best = std::move(rest);
  }
  return best;
}

// `name` without the prefixes of `steps`, or as the release calls a tower, unless it is one of `transposed`.
std::string ReleasedUnder(const ModelTable& table, const Steps& steps, const std::vector<std::string>& transposed,
                          const std::string& name) {
  if (IsKnown(table, name)) return name;
  std::string out = name;
  for (const Rule* rule : steps) {
    if (!Apply(*rule, &out)) break;
    if (IsKnown(table, out)) return out;
  }
  for (const Rule& rule : AllRules().renamed) {
    const bool is_transposed = std::find(transposed.begin(), transposed.end(), rule.from) != transposed.end();
    std::string tower = out;
    if (!is_transposed && Apply(rule, &tower) && IsKnown(table, tower)) return tower;
    tower = name;
    if (!is_transposed && Apply(rule, &tower) && IsKnown(table, tower)) return tower;
  }
  // Of the text model's own prefix alone, though no table knows it; "model." may have taken its place.
  if (std::string bare = out; !steps.empty() && Apply({"model.", ""}, &bare) && IsKnown(table, bare)) return bare;
  return out;
}

class NameReleaser {
 public:
  NameReleaser(Catalogue* catalogue, std::vector<std::pair<std::string, std::string>>* weight_map)
      : catalogue_(*catalogue), weight_map_(*weight_map) {}

  Result<ReleasedName> Release() {
    if (!Decide()) return ReleasedName([](const std::string& name) { return name; });
    uint64_t count = 0;
    for (StoredArray& array : catalogue_.arrays) {
      std::string released = Released(array.name);
      if (released == array.name) continue;
      if (count++ == 0) example_ = array.name;
      catalogue_.files[array.file].renamed = true;
      array.id = catalogue_.table->Identify(released);
      array.name = std::move(released);
    }
    for (auto& [tensor, file] : weight_map_) tensor = Released(tensor);
    for (const Rule* rule : steps_) catalogue_.name_prefix += rule->from;
    catalogue_.oddities.push_back("tensor names are under \"" + catalogue_.name_prefix +
                                  "\" and are read as those of the release: " + std::to_string(count) + ", such as " +
                                  example_);
    MIMO_RETURN_IF_ERROR(ReleaseModules());
    return ReleasedName([table = catalogue_.table, steps = steps_, transposed = transposed_](const std::string& name) {
      return ReleasedUnder(*table, steps, transposed, name);
    });
  }

 private:
  bool Known(const std::string& name) const { return IsKnown(*catalogue_.table, name); }

  // Whether one prefix explains the names: that of most tensors in layers. Names outside of layers may have but the
  // first of several.
  bool Decide() {
    uint64_t all = 0, resolved = 0, fitting = 0;
    std::map<Steps, uint64_t> votes, outside;
    for (const StoredArray& array : catalogue_.arrays) {
      if (HeaderName(array.name).size() != array.name.size()) return false;  // of a rank
      if (array.id.layer >= 0) return false;
      if (array.id.role != Role::kUnknown || IsTowerUnderAnotherName(array.name)) continue;
      ++all;
      const auto steps = StepsFor(*catalogue_.table, array.name);
      if (!steps) continue;
      ++resolved;
      std::string name = array.name;
      for (const Rule* rule : *steps) Apply(*rule, &name);
      ++(catalogue_.table->Identify(name).layer >= 0 ? votes : outside)[*steps];
    }
    const auto most =
        std::max_element(votes.begin(), votes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    if (most == votes.end() || resolved * 3 < all * 2) return false;
    steps_ = most->first;
    for (const auto& [steps, count] : outside)
      if (steps.size() <= steps_.size() && std::equal(steps.begin(), steps.end(), steps_.begin())) fitting += count;
    if ((fitting + most->second) * 10 < resolved * 9) return false;
    FindTransposedTowers();
    return true;
  }

  static bool IsTowerUnderAnotherName(const std::string& name) {
    return std::any_of(AllRules().renamed.begin(), AllRules().renamed.end(),
                       [&](const Rule& rule) { return name.starts_with(rule.from); });
  }

  // MLX keeps the channels of convolutions last. Patches are square, so that a tower whose last two extents differ is
  // one of these, and no name of the release must be given to it.
  void FindTransposedTowers() {
    for (const Rule& rule : AllRules().renamed)
      for (const StoredArray& array : catalogue_.arrays)
        if (array.name.starts_with(rule.from) && array.shape.size() >= 4 &&
            array.shape[array.shape.size() - 1] != array.shape[array.shape.size() - 2])
          transposed_.push_back(rule.from);
  }

  std::string Released(const std::string& name) const {
    return ReleasedUnder(*catalogue_.table, steps_, transposed_, name);
  }

  // Names of modules in lists of the config, which are tensor names without their last component.
  bool ReleaseModule(std::string* module) const {
    std::string_view head;
    for (const std::string_view start : {"re:^", "re:"})
      if (head.empty() && module->starts_with(start)) head = start;
    const std::string name = module->substr(head.size());
    std::string out = name;
    if (head.empty()) {
      const std::string tensor = Released(name + ".weight");
      out = tensor.ends_with(".weight") ? tensor.substr(0, tensor.size() - 7) : name;
    } else {
      for (const Rule* rule : steps_) {
        if (Apply(*rule, &out)) continue;
        Apply({Escaped(rule->from), Escaped(rule->to)}, &out);
      }
    }
    if (out == name) return false;
    *module = std::string(head) + out;
    return true;
  }

  static std::string Escaped(const std::string& text) {
    std::string out;
    for (const char c : text) out += c == '.' ? std::string("\\.") : std::string(1, c);
    return out;
  }

  // Of the object that says what is quantized. Whether anything was changed.
  bool ReleaseLists(ordered_json* quantization) const {
    bool changed = false;
    for (const char* key : {"ignored_layers", "modules_to_not_convert", "ignore", "exclude_modules"}) {
      const auto list = quantization->find(key);
      if (list == quantization->end() || !list->is_array()) continue;
      for (ordered_json& module : *list)
        if (module.is_string()) changed |= ReleaseModule(module.get_ptr<std::string*>());
    }
    if (const auto layers = quantization->find("quantized_layers");
        layers != quantization->end() && layers->is_object()) {
      ordered_json released = ordered_json::object();
      for (auto& [name, layer] : layers->items()) {
        std::string module = name;
        changed |= ReleaseModule(&module);
        released[module] = layer;
      }
      *layers = std::move(released);
    }
    return changed;
  }

  // Of the text of a document, the lists of its member `key`.
  Status ReleaseModulesOf(const char* key, const std::string& path, std::string* text) const {
    MIMO_ASSIGN_OR_RETURN(ordered_json document, ParseJson<ordered_json>(*text, path));
    const auto quantization = document.find(key);
    if (quantization == document.end() || !quantization->is_object()) return {};
    if (ReleaseLists(&*quantization)) *text = document.dump(2) + "\n";
    return {};
  }

  Status ReleaseModules() const {
    MIMO_RETURN_IF_ERROR(ReleaseModulesOf("quantization_config", catalogue_.config.path, &catalogue_.config.text));
    const std::string stored = catalogue_.quant_config;  // which need not be JSON: config.json counts
    if (!ReleaseModulesOf("quantization", kQuantConfigName, &catalogue_.quant_config).ok())
      catalogue_.quant_config = stored;
    return {};
  }

  Catalogue& catalogue_;
  std::vector<std::pair<std::string, std::string>>& weight_map_;
  Steps steps_;
  std::vector<std::string> transposed_;
  std::string example_;
};

}  // namespace

bool IsReadUnderPrefix(const ModelTable& table, const std::string& name) {
  return StepsFor(table, name).has_value();
}

Result<ReleasedName> ReleaseNames(Catalogue* catalogue, std::vector<std::pair<std::string, std::string>>* weight_map) {
  return NameReleaser(catalogue, weight_map).Release();
}

}  // namespace mimo
