// Model tables from schemas/models/, parsed once each.
#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>

#include "lib/base/words.h"
#include "lib/json/parse.h"
#include "lib/model/family.h"
#include "lib/model/role_groups.h"

namespace mimo {
namespace {

using Json = nlohmann::json;

Error BadTable(std::string what) {
  return BadInput("bad model table: " + std::move(what)).Advice("see schemas/models/ for the form of a table");
}

// "a.{layer}.b" -> "a.#.b", the form in which names are looked up. Empty when the pattern cannot be told from others: a
// placeholder that is no whole path component, {expert} without a layer before it, or a literal number.
std::string LookupForm(const std::string& pattern) {
  std::string shape;
  bool layer = false;
  bool expert = false;
  for (size_t at = 0; at <= pattern.size();) {
    size_t end = pattern.find('.', at);
    if (end == std::string::npos) end = pattern.size();
    const std::string component = pattern.substr(at, end - at);
    if (at != 0) shape.push_back('.');
    if ((component == kLayerSlot || component == kLayerBehindSlot) && !layer && !expert) {
      layer = true;
      shape.push_back('#');
    } else if (component == "{expert}" && layer && !expert) {
      expert = true;
      shape.push_back('#');
    } else {
      if (component.empty() || component.find_first_of("{}") != std::string::npos) return "";
      if (component.find_first_not_of("0123456789") == std::string::npos) return "";
      shape += component;
    }
    at = end + 1;
  }
  return shape;
}

Result<TensorRule> ParseRule(const Json& entry) {
  TensorRule rule;
  const std::string role = entry.at("role").get<std::string>();
  const auto known = RoleFromName(role);
  if (!known || *known == Role::kUnknown) return BadTable("unknown role").Found(role);
  rule.role = *known;
  rule.pattern = entry.at("name").get<std::string>();
  rule.shape = entry.at("shape").get<std::vector<std::string>>();
  rule.mtp = entry.value("mtp", false);
  if (const auto when = entry.find("when"); when != entry.end() && when->is_array())
    rule.when = when->get<std::vector<std::string>>();
  else if (when != entry.end())
    rule.when = {when->get<std::string>()};
  rule.storage = entry.at("storage").get<std::string>();
  rule.fuse = entry.value("fuse", std::string());
  static constexpr std::string_view kStorage[] = {"bf16", "f32", "router", "linear", "expert"};
  rule.unlisted = entry.value("unlisted", false);
  if (std::find(std::begin(kStorage), std::end(kStorage), rule.storage) == std::end(kStorage)) {
    return BadTable("unknown storage").Found(rule.storage);
  }
  return rule;
}

// Words of CachePlacement in a table.
constexpr Words<CachePlacement, 3> kPlacements{
    {{CachePlacement::kSplit, "split"}, {CachePlacement::kFused, "fused"}, {CachePlacement::kAttention, "attention"}}};
static_assert(NamesEach(kPlacements));

// Every name of every scale, below each module of attention.
Result<std::vector<CacheScaleName>> ParseCacheScales(const Json& section) {
  std::vector<CacheScaleName> names;
  for (const Json& module : section.at("modules"))
    for (const Json& entry : section.at("scales")) {
      const std::string role = entry.at("role").get<std::string>();
      const auto known = RoleFromName(role);
      if (!known || !IsCacheScale(*known)) return BadTable("no scale of the KV cache").Found(role);
      for (const auto& [placement, word] : kPlacements)
        for (const Json& name : entry.value(std::string(word), Json::array()))
          names.push_back({*known, module.value("mtp", false), placement,
                           module.at("name").get<std::string>() + "." + name.get<std::string>()});
    }
  return names;
}

}  // namespace

Result<ModelTable> ParseModelTable(std::string_view json) {
  ModelTable table;
  const auto data = std::make_shared<ModelTable::Data>();
  table.data_ = data;
  try {
    MIMO_ASSIGN_OR_RETURN(const Json root, ParseJson<Json>(json, "a model table"));
    for (const Json& entry : root.at("tensors")) {
      MIMO_ASSIGN_OR_RETURN(TensorRule rule, ParseRule(entry));
      for (const std::string& word : rule.when)
        if (!IsStructural(word) && !root.value("flags", Json::object()).contains(word))
          return BadTable("unknown condition").Found(word);
      const std::string shape = LookupForm(rule.pattern);
      if (shape.empty()) return BadTable("bad name pattern").Found(rule.pattern);
      const bool behind = rule.pattern.find(kLayerBehindSlot) != std::string::npos;
      if (!(behind ? data->behind_by_shape : data->by_shape).emplace(shape, data->rules.size()).second)
        return BadTable("name twice").Found(rule.pattern);
      data->rules.push_back(std::move(rule));
    }
    for (const Json& entry : root.value("towers", Json::array())) {
      const std::string name = entry.at("role").get<std::string>();
      const auto role = RoleFromName(name);
      if (!role) return BadTable("unknown role").Found(name);
      data->towers.emplace_back(entry.at("prefix").get<std::string>(), *role);
    }
    if (root.contains("cache_scales")) {
      MIMO_ASSIGN_OR_RETURN(data->cache_scales, ParseCacheScales(root.at("cache_scales")));
    }
    for (size_t i = 0; i < data->cache_scales.size(); ++i) {
      const std::string& pattern = data->cache_scales[i].pattern;
      const std::string shape = LookupForm(pattern);
      if (shape.empty()) return BadTable("bad name pattern").Found(pattern);
      if (data->by_shape.contains(shape) || !data->cache_by_shape.emplace(shape, i).second)
        return BadTable("name twice").Found(pattern);
    }
  } catch (const Json::exception& e) {
    return BadTable("not the expected JSON").Found(e.what());
  }
  return table;
}

bool IsStructural(std::string_view condition) {
  static constexpr std::string_view kWords[] = {"dense", "moe", "shared", "sinks", "fused", "split", "untied"};
  return std::find(std::begin(kWords), std::end(kWords), condition) != std::end(kWords);
}

Result<const ModelTable*> ModelTable::Get(const std::string& name) {
  MIMO_ASSIGN_OR_RETURN(const Family* family, Family::Get(name));
  return &family->table;
}

const ModelTable* ModelTable::Of(int64_t decoder_layers) const {
  if (data_->behind_by_shape.empty()) return this;
  static std::mutex mutex;
  static auto& tables = *new std::map<std::pair<const Data*, int64_t>, std::unique_ptr<const ModelTable>>();
  const std::lock_guard<std::mutex> lock(mutex);
  auto& table = tables[{data_.get(), decoder_layers}];
  if (table == nullptr) {
    ModelTable bound = *this;
    bound.decoder_layers_ = decoder_layers;
    table = std::make_unique<const ModelTable>(std::move(bound));
  }
  return table.get();
}

}  // namespace mimo
