#include "lib/forms/hf/kept_quant.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "lib/base/pattern.h"
#include "lib/json/parse.h"

namespace mimo {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kPatternPrefix = "re:";
constexpr std::string_view kProjections[] = {"q_proj", "k_proj", "v_proj", "qkv_proj"};

// The names under which the projections of one attention may be stored; empty for other modules.
std::vector<std::string> Siblings(const std::string& module) {
  const size_t dot = module.rfind('.');
  if (dot == std::string::npos) return {};
  const std::string_view last = std::string_view(module).substr(dot + 1);
  if (std::find(std::begin(kProjections), std::end(kProjections), last) == std::end(kProjections)) return {};
  std::vector<std::string> names;
  for (const std::string_view projection : kProjections)
    names.push_back(module.substr(0, dot + 1) + std::string(projection));
  return names;
}

// An entry of a list: a name, or a pattern.
class Entry {
 public:
  explicit Entry(std::string text) : text_(std::move(text)) {
    if (!is_pattern()) return;
    auto pattern = Pattern::Make("^(?:" + text_.substr(kPatternPrefix.size()) + ")");
    if (pattern.ok()) pattern_ = std::move(pattern).value();
  }
  const std::string& text() const { return text_; }
  bool is_pattern() const { return text_.starts_with(kPatternPrefix); }
  // Patterns that only Python knows (lookaheads) match nothing here: what they would name is named once more.
  bool Matches(const std::string& module) const { return pattern_ ? pattern_->FoundIn(module) : text_ == module; }

 private:
  std::string text_;
  std::optional<Pattern> pattern_;
};

std::vector<Entry> EntriesOf(const ordered_json& object, const char* key) {
  std::vector<Entry> entries;
  if (const auto list = object.find(key); list != object.end() && list->is_array())
    for (const ordered_json& entry : *list)
      if (entry.is_string()) entries.emplace_back(entry.get<std::string>());
  return entries;
}

class Lists {
 public:
  explicit Lists(const HfQuantization& q) : q_(q) {
    for (const QuantizedModule& module : q.quantized) quantized_.insert(module.name);
    unquantized_.insert(q.unquantized.begin(), q.unquantized.end());
  }

  ordered_json Ignore(const ordered_json& config) const {
    std::vector<Entry> kept;
    for (Entry& entry : EntriesOf(config, "ignore")) {
      const bool stale = entry.is_pattern() ? MatchesQuantized(entry) : quantized_.contains(entry.text());
      if (!stale && !IsGone(entry.text())) kept.push_back(std::move(entry));
    }
    ordered_json list = ordered_json::array();
    std::set<std::string> names;
    std::vector<const Entry*> patterns;
    for (const Entry& entry : kept) {
      list.push_back(entry.text());
      names.insert(entry.text());
      if (entry.is_pattern()) patterns.push_back(&entry);
    }
    for (const std::string& module : q_.unquantized) {
      const bool matched =
          std::any_of(patterns.begin(), patterns.end(), [&](const Entry* e) { return e->Matches(module); });
      if (!matched && names.insert(module).second) list.push_back(module);
    }
    return list;
  }

  ordered_json Targets(const ordered_json& group) const {
    ordered_json list = ordered_json::array();
    std::set<std::string> taken;
    const auto add = [&](const std::string& text) {
      if (taken.insert(text).second) list.push_back(text);
    };
    const std::vector<Entry> entries = EntriesOf(group, "targets");
    for (const Entry& entry : entries)
      if (entry.is_pattern() || !IsGone(entry.text())) add(entry.text());
    // Projections that took the place of others of this group.
    for (const std::string& module : quantized_) {
      const auto matches = [&](const std::string& name) {
        return std::any_of(entries.begin(), entries.end(), [&](const Entry& e) { return e.Matches(name); });
      };
      const std::vector<std::string> names = Siblings(module);
      if (!names.empty() && !matches(module) && std::any_of(names.begin(), names.end(), matches)) add(module);
    }
    return list;
  }

 private:
  // A projection of attention that is stored under other names now.
  bool IsGone(const std::string& name) const {
    if (quantized_.contains(name) || unquantized_.contains(name)) return false;
    const std::vector<std::string> names = Siblings(name);
    return std::any_of(names.begin(), names.end(), [&](const std::string& other) {
      return quantized_.contains(other) || unquantized_.contains(other);
    });
  }
  bool MatchesQuantized(const Entry& pattern) const {
    return std::any_of(quantized_.begin(), quantized_.end(), [&](const std::string& m) { return pattern.Matches(m); });
  }

  const HfQuantization& q_;
  std::set<std::string> quantized_, unquantized_;
};

}  // namespace

Result<std::string> KeptCompressedTensors(const HfQuantization& quantization, const std::string& source) {
  MIMO_ASSIGN_OR_RETURN(ordered_json config, ParseJson<ordered_json>(source, "quantization_config"));
  if (!config.is_object()) return BadInput("quantization_config is not a JSON object");
  const Lists lists(quantization);
  config["ignore"] = lists.Ignore(config);
  const auto groups = config.find("config_groups");
  if (groups == config.end() || !groups->is_object()) return config.dump();
  for (auto& group : *groups) {
    if (!group.is_object() || !group.contains("targets")) continue;
    group["targets"] = lists.Targets(group);
    const auto weights = group.find("weights");
    if (weights == group.end() || !weights->is_object()) continue;
    if (weights->value("strategy", ordered_json()) == "block" && weights->contains("block_structure"))
      (*weights)["block_structure"] = {quantization.fp8_block_rows, quantization.fp8_block_cols};
  }
  return config.dump();
}

}  // namespace mimo
