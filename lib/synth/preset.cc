#include "lib/synth/preset.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>

#include "lib/json/parse.h"
#include "schemas/embedded.h"

namespace mimo {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kFolder = "presets/";
constexpr std::string_view kEnding = ".json";

const char* FindEmbedded(std::string_view path) {
  for (const EmbeddedFile* file = kEmbeddedFiles; file->path != nullptr; ++file) {
    if (path == file->path) return file->content;
  }
  return nullptr;
}

Error BadPreset(const std::string& path, std::string what) {
  return BadInput(std::move(what)).File("schemas/" + path).Advice("correct the embedded file");
}

Status ReadFileRules(const Json& list, const std::string& path, std::vector<FileRule>* rules) {
  for (const Json& entry : list) {
    FileRule rule;
    rule.mtp = entry.value("mtp", false);
    rule.file = entry.at("file").get<std::string>();
    for (const Json& name : entry.value("roles", Json::array())) {
      const auto role = RoleFromName(name.get<std::string>());
      if (!role) return BadPreset(path, "unknown role").Found(name.dump());
      rule.roles.push_back(*role);
    }
    rules->push_back(std::move(rule));
  }
  return {};
}

Result<Preset> ParsePreset(const std::string& path, const char* text) {
  Preset preset;
  try {
    MIMO_ASSIGN_OR_RETURN(const Json json, ParseJson<Json>(text, path));
    preset.name = json.at("name").get<std::string>();
    preset.about = json.at("about").get<std::string>();
    preset.config = json.at("config").dump();
    const Json& ignored = json.at("ignored_layers");
    preset.ignored_key = ignored.value("key", "ignored_layers");
    preset.ignored_every = ignored.at("every").get<std::vector<std::string>>();
    preset.ignored_extra = ignored.at("extra").get<std::vector<std::string>>();
    preset.per_layer = json.at("per_layer").get<std::vector<std::string>>();
    const Json& storage = json.at("storage");
    preset.fused = storage.at("qkv") == "fused";
    preset.own_grids = storage.at("qkv") == "independent";
    preset.chunks = storage.at("chunks").get<int64_t>();
    preset.quantized = storage.at("experts") != "plain";
    preset.mxfp4_experts = storage.at("experts") == "mxfp4";
    const auto router = DTypeFromName(storage.at("router").get<std::string>());
    if (!router) return BadPreset(path, "unknown router dtype").Found(storage.at("router").dump());
    preset.router = *router;
    preset.plain = DTypeFromName(storage.value("plain", "BF16")).value_or(DType::kBF16);
    preset.scales = DTypeFromName(storage.value("scales", "F32")).value_or(DType::kF32);
    preset.mtp_layers = json.at("mtp_layers").get<int>();
    preset.tokenizer_class = json.value("tokenizer_class", "PreTrainedTokenizerFast");
    const Json& index = json.at("index");
    preset.save_format = index.value("save_format", "");
    if (index.contains("tp_size")) preset.tp_size = index.at("tp_size").get<int64_t>();
    preset.subdirectories = json.at("subdirectories").get<std::vector<std::string>>();
    preset.towers = json.at("towers").get<bool>();
    const Json& placement = json.at("placement");
    preset.ep = placement.value("ep", int64_t{1});
    MIMO_RETURN_IF_ERROR(ReadFileRules(placement.value("files", Json::array()), path, &preset.files));
    if (placement.contains("shards")) {
      const Json& shards = placement.at("shards");
      preset.shards = {.bytes = shards.at("bytes").get<uint64_t>(),
                       .by_name = shards.at("order") == "name",
                       .by_width = shards.value("within", "name") == "width",
                       .first = shards.value("first", int64_t{1}),
                       .declared = shards.value("declared", int64_t{0})};
    }
  } catch (const Json::exception& e) {
    return BadPreset(path, "not a preset").Found(e.what());
  }
  return preset;
}

std::string WithNumber(std::string name, int64_t i) {
  const size_t at = name.find("{i}");
  if (at != std::string::npos) name.replace(at, 3, std::to_string(i));
  return name;
}

}  // namespace

std::vector<std::string> PresetNames() {
  std::vector<std::string> names;
  for (const EmbeddedFile* file = kEmbeddedFiles; file->path != nullptr; ++file) {
    std::string_view path = file->path;
    if (!path.starts_with(kFolder) || !path.ends_with(kEnding)) continue;
    path.remove_prefix(kFolder.size());
    path.remove_suffix(kEnding.size());
    names.emplace_back(path);
  }
  std::sort(names.begin(), names.end());
  return names;
}

Result<Preset> LoadPreset(const std::string& name) {
  const std::string path = std::string(kFolder) + name + std::string(kEnding);
  if (const char* text = FindEmbedded(path)) return ParsePreset(path, text);
  Error error = UsageError("unknown preset");
  for (const std::string& known : PresetNames()) error.expected += (error.expected.empty() ? "one of " : ", ") + known;
  error.found = name;
  return error;
}

Result<std::vector<TowerTensor>> TowerTensors(const std::string& family, int64_t out_hidden) {
  const std::string path = "towers/" + family + ".json";
  std::vector<TowerTensor> tensors;
  const char* text = FindEmbedded(path);
  if (text == nullptr) return BadPreset(path, "the file is not embedded");
  try {
    MIMO_ASSIGN_OR_RETURN(const Json json, ParseJson<Json>(text, path));
    for (const Json& entry : json.at("tensors")) {
      TowerTensor tensor;
      for (const Json& extent : entry.at("shape")) {
        const auto& symbol = extent.get_ref<const std::string&>();
        tensor.shape.push_back(symbol == "out_hidden" ? out_hidden : std::stoll(symbol));
      }
      const std::string name = entry.at("name").get<std::string>();
      for (const Json& range : entry.value("i", Json::array({Json::array({0, 0})}))) {
        for (int64_t i = range.at(0).get<int64_t>(); i <= range.at(1).get<int64_t>(); ++i) {
          tensor.name = WithNumber(name, i);
          tensors.push_back(tensor);
        }
      }
    }
  } catch (const std::exception& e) {
    return BadPreset(path, "not a list of tower tensors").Found(e.what());
  }
  return tensors;
}

}  // namespace mimo
