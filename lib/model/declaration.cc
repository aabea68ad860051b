#include "lib/model/declaration.h"

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "lib/base/name_index.h"
#include "lib/base/pattern.h"
#include "lib/json/parse.h"
#include "lib/model/role_groups.h"

namespace mimo {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kPatternPrefix = "re:";

// "fnmatch" as ModelOpt uses it, as a pattern of the whole name.
std::string PatternOfGlob(const std::string& glob) {
  std::string pattern = "^";
  for (const char c : glob) {
    if (c == '*')
      pattern += ".*";
    else if (c == '?')
      pattern += '.';
    else
      pattern +=
          (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_') ? std::string(1, c) : "\\" + std::string(1, c);
  }
  return pattern + "$";
}

}  // namespace

// A list of modules: whole names, names of what holds them or ends them, globs and patterns.
class ModuleList {
 public:
  void Add(const std::string& entry) {
    if (entry.starts_with(kPatternPrefix)) {
      AddPattern("^(?:" + entry.substr(kPatternPrefix.size()) + ")");  // Python's re.match
    } else if (entry.find_first_of("*?") != std::string::npos) {
      AddPattern(PatternOfGlob(entry));
    } else if (names_.emplace(entry, 0).is_new) {
      plain_.push_back(entry);
    }
  }

  bool HasName(std::string_view module) const { return names_.contains(module); }

  // Whether the name, a name of what holds it, its end after a dot, or one of its components is listed.
  bool Has(const std::string& module) const {
    if (names_.contains(module)) return true;
    const std::string_view name = module;
    size_t begin = 0;
    for (size_t dot = name.find('.'); !names_.empty() && dot != std::string::npos; dot = name.find('.', dot + 1)) {
      if (names_.contains(name.substr(0, dot)) || names_.contains(name.substr(dot + 1)) ||
          names_.contains(name.substr(begin, dot - begin)))
        return true;
      begin = dot + 1;
    }
    return std::any_of(patterns_.begin(), patterns_.end(), [&](const Pattern& p) { return p.FoundIn(module); });
  }

  const std::vector<std::string>& plain() const { return plain_; }

 private:
  void AddPattern(const std::string& text) {
    if (Result<Pattern> pattern = Pattern::Make(text); pattern.ok()) patterns_.push_back(std::move(*pattern));
  }

  NameIndex names_;  // with no numbers of meaning
  std::vector<std::string> plain_;
  std::vector<Pattern> patterns_;
};

namespace {

// Whether `is_one` holds of a name under which readers look a module up: its own first.
template <class IsOne>
bool AnyName(const std::string& module, Role role, const IsOne& is_one) {
  if (is_one(module)) return true;
  const auto beside = [&](std::initializer_list<const char*> names) {
    const std::string parent = module.substr(0, module.rfind('.') + 1);
    return std::any_of(names.begin(), names.end(), [&](const char* name) { return is_one(parent + name); });
  };
  if (role == Role::kAttnQkv) return beside({"q_proj", "k_proj", "v_proj"});
  if (IsAttentionProjection(role)) return beside({"qkv_proj"});
  return !IsExpert(role) && (IsGate(role) || IsUp(role)) && beside({"gate_up_proj"});
}

bool HasAny(const ModuleList& list, const std::string& module, Role role) {
  return AnyName(module, role, [&](const std::string& name) { return list.Has(name); });
}

std::string TextOf(const Json& object, const char* key) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  return object.is_object() && it != object.end() && it->is_string() ? it->get<std::string>() : "";
}
int64_t NumberOf(const Json& object, const char* key) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  return object.is_object() && it != object.end() && it->is_number_integer() ? it->get<int64_t>() : 0;
}
std::vector<std::string> ListOf(const Json& object, const char* key) {
  std::vector<std::string> list;
  if (!object.is_object()) return list;
  const auto it = object.find(key);
  if (it == object.end() || !it->is_array()) return list;
  for (const Json& entry : *it)
    if (entry.is_string()) list.push_back(entry.get<std::string>());
  return list;
}

StoredKind KindOfAlgorithm(const std::string& algorithm) {
  if (algorithm == "FP8") return StoredKind::kFp8Tensor;
  if (algorithm == "FP8_PER_CHANNEL_PER_TOKEN") return StoredKind::kFp8Row;
  if (algorithm == "FP8_PB_WO" || algorithm == "FP8_PB_REAL") return StoredKind::kFp8Block;
  if (algorithm == "MXFP8") return StoredKind::kMxfp8;
  if (algorithm == "MXFP4" || algorithm == "W4A8_MXFP4_FP8") return StoredKind::kMxfp4;
  if (algorithm.find("NVFP4") != std::string::npos) return StoredKind::kNvfp4;
  return StoredKind::kForeign;
}

// The "weights" of a group of compressed-tensors.
StoredKind KindOfScheme(const Json& weights) {
  if (TextOf(weights, "type") != "float") return StoredKind::kForeign;
  const std::string strategy = TextOf(weights, "strategy");
  const int64_t group = NumberOf(weights, "group_size");
  switch (NumberOf(weights, "num_bits")) {
    case 8:
      if (strategy == "tensor") return StoredKind::kFp8Tensor;
      if (strategy == "channel") return StoredKind::kFp8Row;
      if (strategy == "block") return StoredKind::kFp8Block;
      return strategy == "group" && group == 32 ? StoredKind::kMxfp8 : StoredKind::kForeign;
    case 4:
      if (strategy == "tensor_group" || group == 16) return StoredKind::kNvfp4;
      return group == 32 ? StoredKind::kMxfp4 : StoredKind::kForeign;
    default:
      return StoredKind::kForeign;
  }
}

}  // namespace

struct DeclarationParts {
  struct Group {
    StoredKind kind = StoredKind::kForeign;
    bool all = false;  // targets the class of linear layers
    ModuleList targets;
  };
  bool present = false;
  std::string method;
  ModuleList ignored;
  std::vector<std::string> one_list_only;
  std::vector<Group> groups;  // the first that has a module decides
  std::optional<StoredKind> experts;
  bool whole_names = false;  // what every reader of the ignore list agrees about
};

StoredKind KindOf(const Weight& weight) {
  switch (weight.storage) {
    case Storage::kPlain:
      return StoredKind::kPlain;
    case Storage::kMxfp4:
      return StoredKind::kMxfp4;
    case Storage::kMxfp8:
      return StoredKind::kMxfp8;
    case Storage::kNvfp4:
      return StoredKind::kNvfp4;
    case Storage::kFp8Block:
      break;
  }
  switch (weight.span) {
    case ScaleSpan::kRow:
      return StoredKind::kFp8Row;
    case ScaleSpan::kTensor:
      return StoredKind::kFp8Tensor;
    case ScaleSpan::kBlock:
      break;
  }
  return StoredKind::kFp8Block;
}

namespace {

void AddGroup(StoredKind kind, bool all, const std::vector<std::string>& targets, DeclarationParts* parts) {
  DeclarationParts::Group& group = parts->groups.emplace_back();
  group.kind = kind;
  group.all = all;
  for (const std::string& target : targets) {
    group.all |= target == "Linear";
    group.targets.Add(target);
  }
}

void ReadNative(const Json& q, DeclarationParts* parts) {
  parts->whole_names = true;
  AddGroup(q.contains("weight_block_size") && q.at("weight_block_size").is_array() ? StoredKind::kFp8Block
                                                                                   : StoredKind::kFp8Tensor,
           true, {}, parts);
  if (TextOf(q, "store_dtype") == "mxfp4") parts->experts = StoredKind::kMxfp4;
  const std::vector<std::string> first = ListOf(q, "ignored_layers"), second = ListOf(q, "modules_to_not_convert");
  if (first.empty() || second.empty()) return;
  const std::set<std::string> a(first.begin(), first.end()), b(second.begin(), second.end());
  std::set_symmetric_difference(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(parts->one_list_only));
}

void ReadModelOpt(const Json& q, DeclarationParts* parts) {
  const std::string algorithm = TextOf(q, "quant_algo");
  if (const auto layers = q.find("quantized_layers"); layers != q.end() && layers->is_object()) {
    for (const auto& [name, entry] : layers->items())
      AddGroup(KindOfAlgorithm(TextOf(entry, "quant_algo")), false, {name}, parts);
  } else {
    AddGroup(KindOfAlgorithm(algorithm), true, {}, parts);
  }
}

void ReadCompressed(const Json& q, DeclarationParts* parts) {
  const auto groups = q.find("config_groups");
  if (groups == q.end() || !groups->is_object()) return;
  for (const auto& [name, group] : groups->items()) {
    if (!group.is_object()) continue;
    const auto weights = group.find("weights");
    AddGroup(weights == group.end() ? StoredKind::kForeign : KindOfScheme(*weights), false, ListOf(group, "targets"),
             parts);
  }
}

}  // namespace

Declaration::Declaration(const std::string& config_text) : parts_(std::make_unique<DeclarationParts>()) {
  const Result<Json> config = ParseJson<Json>(config_text, "config.json", kLongDocument);
  if (!config.ok() || !config.value().is_object()) return;
  const auto found = config.value().find("quantization_config");
  if (found == config.value().end() || !found->is_object()) return;
  const Json& q = *found;
  parts_->present = true;
  parts_->method = TextOf(q, "quant_method");
  for (const char* key : {"ignored_layers", "modules_to_not_convert", "ignore", "exclude_modules", "exclude"})
    for (const std::string& name : ListOf(q, key)) parts_->ignored.Add(name);
  if (parts_->method == "fp8")
    ReadNative(q, parts_.get());
  else if (parts_->method == "modelopt" || parts_->method == "modelopt_fp4")
    ReadModelOpt(q, parts_.get());
  else if (parts_->method == "compressed-tensors")
    ReadCompressed(q, parts_.get());
  else
    AddGroup(parts_->method == "mxfp4" ? StoredKind::kMxfp4 : StoredKind::kForeign, true, {}, parts_.get());
}

Declaration::~Declaration() = default;
Declaration::Declaration(Declaration&&) noexcept = default;
Declaration& Declaration::operator=(Declaration&&) noexcept = default;

bool Declaration::present() const {
  return parts_->present;
}
const std::string& Declaration::method() const {
  return parts_->method;
}
const std::vector<std::string>& Declaration::ignored() const {
  return parts_->ignored.plain();
}
const std::vector<std::string>& Declaration::in_one_list_only() const {
  return parts_->one_list_only;
}
bool Declaration::Covers(Role role) const {
  return IsLayerLinear(role) || (role == Role::kLmHead && parts_->present && !parts_->whole_names);
}

bool Declaration::MayIgnore(const std::string& module, Role role) const {
  return HasAny(parts_->ignored, module, role);
}

StoredKind Declaration::Of(const std::string& module, Role role) const {
  const bool ignored =
      parts_->whole_names
          ? AnyName(module, role, [&](const std::string& name) { return parts_->ignored.HasName(name); })
          : HasAny(parts_->ignored, module, role);
  if (!parts_->present || ignored) return StoredKind::kPlain;
  // Names say more than classes, in whatever order the groups stand.
  for (const DeclarationParts::Group& group : parts_->groups)
    if (HasAny(group.targets, module, role)) return group.kind;
  for (const DeclarationParts::Group& group : parts_->groups) {
    if (!group.all) continue;
    return IsExpert(role) && parts_->experts ? *parts_->experts : group.kind;
  }
  return StoredKind::kPlain;
}

bool IsStoredAs(StoredKind declared, const Weight& weight, const ModelConfig& config) {
  const StoredKind stored = KindOf(weight);
  return declared == stored ||
         (declared == StoredKind::kFp8Block && stored == StoredKind::kFp8Row && config.block_rows == 1);
}

bool IsUnlistedInReleases(const Catalogue& catalogue, const TensorId& id) {
  const TensorRule* rule = catalogue.table->RuleOf(id);
  return rule != nullptr && rule->unlisted;
}

std::vector<Disagreement> Disagreements(const Declaration& declaration, const Catalogue& catalogue,
                                        const Inventory& inventory) {
  std::vector<Disagreement> found;
  for (uint32_t i = 0; i < inventory.weights.size(); ++i) {
    const Weight& weight = inventory.weights[i];
    if (!declaration.Covers(weight.id.role)) continue;
    const std::string& name = catalogue.arrays[weight.array].name;
    const StoredKind declared = declaration.Of(name.substr(0, name.rfind('.')), weight.id.role);
    const StoredKind stored = KindOf(weight);
    if (IsStoredAs(declared, weight, catalogue.config)) {
      const bool denied =
          stored != StoredKind::kPlain && declaration.MayIgnore(name.substr(0, name.rfind('.')), weight.id.role);
      if (denied) found.push_back({i, StoredKind::kPlain, stored});
      continue;
    }
    if (stored == StoredKind::kPlain && IsUnlistedInReleases(catalogue, weight.id)) continue;
    found.push_back({i, declared, stored});
  }
  return found;
}

}  // namespace mimo
