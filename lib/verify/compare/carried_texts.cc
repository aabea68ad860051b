#include "lib/verify/compare/carried_texts.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string_view>

#include "lib/json/bytes.h"
#include "lib/json/parse.h"

namespace mimo {
namespace {

using nlohmann::json;

constexpr size_t kShownBytes = 60;
constexpr char kTemplateKey[] = "chat_template";
constexpr char kTemplateJson[] = "chat_template.json";
constexpr std::string_view kTemplateSuffix = ".jinja";
constexpr std::string_view kMoreTemplates = "additional_chat_templates/";

// Who wrote a document, and where it lay.
constexpr std::array<std::string_view, 9> kOfWriters = {
    "transformers_version", "_from_model_config", "_name_or_path", "name_or_path",           "_commit_hash",
    "tokenizer_file",       "is_local",           "backend",       "special_tokens_map_file"};

std::string Quoted(std::string_view text) {
  const std::string shown = Printable(std::string(text.substr(0, kShownBytes)));
  return "\"" + shown + (text.size() > kShownBytes ? "..." : "") + "\"";
}

std::string Shown(const json& value) {
  const std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  return text.size() > kShownBytes ? text.substr(0, kShownBytes) + "..." : text;
}

std::string LineDifference(const std::string& a, const std::string& b) {
  const auto [in_a, in_b] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  const auto at = static_cast<size_t>(in_a - a.begin());
  const size_t line = 1 + static_cast<size_t>(std::count(a.begin(), in_a, '\n'));
  const size_t newline = at == 0 ? std::string::npos : a.rfind('\n', at - 1);
  const size_t begin = newline == std::string::npos ? 0 : newline + 1;
  const auto rest = [begin](const std::string& text) {
    const size_t end = text.find('\n', begin);
    return Quoted(std::string_view(text).substr(begin, end == std::string::npos ? end : end - begin));
  };
  return "line " + std::to_string(line) + ": " + rest(a) + " against " + rest(b);
}

// The first member or element that differs, by its path. The two are not equal; parsing bounds their depth.
std::string MemberDifference(const json& a, const json& b, const std::string& path) {
  const auto below = [&](const std::string& name) { return path.empty() ? name : path + "." + name; };
  if (a.is_object() && b.is_object()) {
    for (const auto& [key, value] : a.items()) {
      if (!b.contains(key)) return below(key) + ": " + Shown(value) + " against nothing";
      if (b.at(key) != value) return MemberDifference(value, b.at(key), below(key));
    }
    for (const auto& [key, value] : b.items())
      if (!a.contains(key)) return below(key) + ": nothing against " + Shown(value);
  }
  if (a.is_array() && b.is_array() && a.size() == b.size())
    for (size_t i = 0; i < a.size(); ++i)
      if (a[i] != b[i]) return MemberDifference(a[i], b[i], below(std::to_string(i)));
  if (a.is_array() && b.is_array() && a.size() != b.size())
    return (path.empty() ? "" : path + ": ") + std::to_string(a.size()) + " entries against " +
           std::to_string(b.size());
  return (path.empty() ? "" : path + ": ") + Shown(a) + " against " + Shown(b);
}

// Merges of a tokenizer.json are texts of two parts, or pairs of texts: older and newer packages write one and the
// other.
void PairMerges(json* document) {
  if (!document->contains("model") || !document->at("model").is_object()) return;
  json& model = document->at("model");
  if (!model.contains("merges") || !model.at("merges").is_array()) return;
  for (json& merge : model.at("merges")) {
    if (!merge.is_string()) continue;
    const std::string text = merge.get<std::string>();
    const size_t space = text.find(' ');
    if (space != std::string::npos) merge = json::array({text.substr(0, space), text.substr(space + 1)});
  }
}

// Without what is compared elsewhere or means nothing; nullopt for what is no JSON object.
std::optional<json> WhatIsMeant(const std::string& text) {
  Result<json> parsed = ParseJson<json>(text, "");
  if (!parsed.ok() || !parsed.value().is_object()) return std::nullopt;
  json document = std::move(parsed).value();
  for (const std::string_view key : kOfWriters) document.erase(std::string(key));
  document.erase(kTemplateKey);
  PairMerges(&document);
  return document;
}

// A text, or a list of {"name", "template"}.
void AddTemplates(const json& value, ChatTemplates* templates) {
  if (value.is_string()) templates->insert_or_assign("default", value.get<std::string>());
  if (!value.is_array()) return;
  for (const json& entry : value) {
    if (!entry.is_object() || !entry.contains("name") || !entry.contains("template")) continue;
    if (!entry.at("name").is_string() || !entry.at("template").is_string()) continue;
    templates->insert_or_assign(entry.at("name").get<std::string>(), entry.at("template").get<std::string>());
  }
}

void AddTemplatesOfJson(const std::string& text, ChatTemplates* templates) {
  const Result<json> parsed = ParseJson<json>(text, "");
  if (parsed.ok() && parsed.value().is_object() && parsed.value().contains(kTemplateKey))
    AddTemplates(parsed.value().at(kTemplateKey), templates);
}

// "REPOSITORY--modeling_mimo_v2.MiMoV2ForCausalLM" -> "modeling_mimo_v2.py"
void AddCode(const json& value, std::set<std::string>* files) {
  if (value.is_array())
    for (const json& entry : value)
      if (entry.is_string()) AddCode(entry, files);
  if (!value.is_string()) return;
  std::string module = value.get<std::string>();
  if (const size_t dashes = module.find("--"); dashes != std::string::npos) module = module.substr(dashes + 2);
  if (const size_t dot = module.find('.'); dot != std::string::npos && dot > 0)
    files->insert(module.substr(0, dot) + ".py");
}

}  // namespace

std::optional<std::string> TextDifference(const std::string& a, const std::string& b, TextMeaning meaning) {
  if (a == b) return std::nullopt;
  if (meaning == TextMeaning::kJson) {
    const std::optional<json> x = WhatIsMeant(a), y = WhatIsMeant(b);
    if (x && y) return *x == *y ? std::nullopt : std::optional(MemberDifference(*x, *y, ""));
  }
  return LineDifference(a, b);
}

ChatTemplates ChatTemplatesOf(const std::optional<std::string>& tokenizer_config,
                              const std::map<std::string, std::string>& files) {
  ChatTemplates templates;
  if (tokenizer_config) AddTemplatesOfJson(*tokenizer_config, &templates);
  if (const auto json_file = files.find(kTemplateJson); json_file != files.end())
    AddTemplatesOfJson(json_file->second, &templates);
  for (const auto& [name, text] : files) {
    if (!name.ends_with(kTemplateSuffix)) continue;
    std::string stem = name.substr(0, name.size() - kTemplateSuffix.size());
    if (stem == kTemplateKey) stem = "default";
    if (stem.starts_with(kMoreTemplates)) stem = stem.substr(kMoreTemplates.size());
    templates.insert_or_assign(stem, text);
  }
  return templates;
}

std::set<std::string> CodeNamedBy(const std::string& config) {
  std::set<std::string> files;
  const Result<json> parsed = ParseJson<json>(config, "");
  if (!parsed.ok() || !parsed.value().is_object() || !parsed.value().contains("auto_map")) return files;
  const json& map = parsed.value().at("auto_map");
  if (map.is_object())
    for (const auto& [key, value] : map.items()) AddCode(value, &files);
  return files;
}

bool IsDerivedGeneration(const std::string& text) {
  const Result<json> parsed = ParseJson<json>(text, "");
  return parsed.ok() && parsed.value().is_object() && parsed.value().value("_from_model_config", json()) == true;
}

}  // namespace mimo
