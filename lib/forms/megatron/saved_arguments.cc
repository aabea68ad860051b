#include "lib/forms/megatron/saved_arguments.h"

#include <algorithm>
#include <charconv>
#include <vector>

#include "lib/layout/decide.h"
#include "lib/model/file_names.h"

namespace mimo {
namespace {

// A scalar of YAML that is a number or a flag.
std::optional<int64_t> YamlNumber(std::string_view text) {
  if (text == "true") return 1;
  if (text == "false") return 0;
  int64_t number = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
  return problem == std::errc() && end == text.data() + text.size() ? std::optional(number) : std::nullopt;
}

std::string_view Trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r"), end = text.find_last_not_of(" \t\r");
  return begin == std::string_view::npos ? std::string_view() : text.substr(begin, end - begin + 1);
}

// A number that arguments may state under one of these names, and what the config has for it.
struct Counterpart {
  std::vector<std::string_view> names;
  std::vector<int64_t> expected;  // any of them
};

}  // namespace

std::optional<int64_t> SavedArguments::Find(std::string_view name) const {
  const auto found = values.find(name);
  return found == values.end() ? std::nullopt : std::optional(found->second.number);
}

void TakeArguments(const TorchValue& saved, const std::string& place, SavedArguments* arguments) {
  const auto* list = std::get_if<TorchValue::List>(&saved.data);
  const TorchValue& state = list != nullptr && !list->empty() ? (*list)[0] : saved;
  const auto* record = state.Find<TorchRecord>("args");
  if (record == nullptr || record->state.empty()) return;
  const auto* dict = std::get_if<TorchValue::Dict>(&record->state[0].data);
  if (dict == nullptr) return;
  for (const auto& [key, value] : *dict) {
    const auto* name = std::get_if<std::string>(&key.data);
    if (name == nullptr) continue;
    if (const auto* number = std::get_if<int64_t>(&value.data))
      arguments->values.emplace(*name, SavedArguments::Value{*number, place});
    else if (const auto* flag = std::get_if<bool>(&value.data))
      arguments->values.emplace(*name, SavedArguments::Value{*flag ? 1 : 0, place});
  }
}

void TakeRunConfig(std::string_view yaml, SavedArguments* arguments) {
  arguments->bridge = true;
  bool inside = false;
  size_t indent = 0;  // of what stands directly below "model:"
  for (size_t at = 0; at < yaml.size();) {
    const size_t end = std::min(yaml.find('\n', at), yaml.size());
    const std::string_view line = yaml.substr(at, end - at);
    at = end + 1;
    const size_t depth = line.find_first_not_of(' ');
    if (depth == std::string_view::npos || line[depth] == '#' || line[depth] == '\r') continue;
    if (depth == 0) {
      inside = Trimmed(line) == "model:";
      indent = 0;
      continue;
    }
    if (inside && indent == 0) indent = depth;
    const size_t colon = line.find(':');
    if (!inside || depth != indent || colon == std::string_view::npos) continue;
    const std::string_view rest = line.substr(colon + 1);
    if (const auto number = YamlNumber(Trimmed(rest.substr(0, rest.find(" #")))))
      arguments->values.emplace(std::string(Trimmed(line.substr(depth, colon - depth))),
                                SavedArguments::Value{*number, kRunConfigName});
  }
}

Status CheckArguments(const SavedArguments& arguments, const ModelConfig& config, const std::string& root) {
  const AttentionShape global = LogicalShape(config, false), window = LogicalShape(config, true);
  const Counterpart counterparts[] = {
      {{"hidden_size"}, {config.hidden}},
      {{"num_layers"}, {config.layers}},
      {{"num_attention_heads"}, {global.heads, window.heads}},
      {{"num_query_groups"}, {global.kv_heads, window.kv_heads, config.global.kv_heads, config.window.kv_heads}},
      {{"kv_channels"}, {global.head_dim, window.head_dim}},
      {{"num_moe_experts", "num_experts"}, {config.experts}},
      {{"moe_ffn_hidden_size"}, {config.moe_intermediate}},
      {{"gated_linear_unit", "swiglu"}, {1}},
  };
  for (const Counterpart& counterpart : counterparts) {
    for (const std::string_view name : counterpart.names) {
      const auto said = arguments.values.find(name);
      if (said == arguments.values.end() || (said->second.number == 0 && counterpart.expected[0] == 0)) continue;
      if (std::find(counterpart.expected.begin(), counterpart.expected.end(), said->second.number) !=
          counterpart.expected.end())
        continue;
      return BadInput("the arguments that were saved with the run are of another model than its config")
          .Id("descent.arguments")
          .File(root)
          .Expected(std::string(name) + " " + std::to_string(counterpart.expected[0]) + " as in " + config.path)
          .Found(std::to_string(said->second.number) + " in " + said->second.place)
          .Advice("name the checkpoint that the run was trained from as --like");
    }
  }
  return {};
}

}  // namespace mimo
