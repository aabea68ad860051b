#include "lib/synth/companions.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "lib/json/parse.h"
#include "lib/synth/fill.h"

namespace mimo {
namespace {

using Json = nlohmann::ordered_json;

std::string Indented(const Json& json) {
  return json.dump(2) + "\n";
}

// A one-tensor safetensors file.
std::string TinyShard(const Filler& filler, const std::string& name, std::vector<int64_t> shape) {
  SynthTensor tensor{.info = {name, DType::kBF16, std::move(shape)}};
  const std::pair<std::string, std::string> metadata[] = {{"format", "pt"}};
  std::string file = LayOutSafetensors(std::span(&tensor.info, 1), metadata);
  const size_t header = file.size();
  file.resize(header + tensor.info.bytes());
  filler.Rows(tensor, 0, tensor.info.shape[0], std::as_writable_bytes(std::span(file)).subspan(header));
  return file;
}

void AddDrafter(const SynthPlan& plan, const Filler& filler, std::vector<SmallFile>* files) {
  Json config = {{"architectures", {"DFlashDraftModel"}}, {"block_size", 8}, {"num_hidden_layers", 5}};
  std::string text = config.dump(2);
  text.insert(text.size() - 2, ",");  // the released file has a trailing comma, so it is no strict JSON
  files->push_back({"dflash/config.json", text + "\n"});
  files->push_back({"dflash/dflash.py", "# Stand-in for the drafter of " + plan.preset.name + ".\n"});
  const SynthTensor embedding{.info = {"mask_embedding", DType::kBF16, {512}}};
  std::string bytes(1024, '\0');
  filler.Rows(embedding, 0, 512, std::as_writable_bytes(std::span(bytes)));
  files->push_back({"dflash/mask_embedding.pt", bytes});
  const std::string tensor = "layers.0.self_attn.q_proj.weight";
  files->push_back({"dflash/dflash_draft_model.safetensors", TinyShard(filler, tensor, {64, 32})});
  Json index = {{"metadata", {{"total_size", 64 * 32 * 2}}},
                {"weight_map", {{tensor, "dflash_draft_model.safetensors"}}}};
  files->push_back({"dflash/model.safetensors.index.json", Indented(index)});
}

void AddAudioTokenizer(const Filler& filler, std::vector<SmallFile>* files) {
  Json config = {{"model_type", "mimo_audio_tokenizer"}, {"sampling_rate", 24000}, {"num_quantizers", 20}};
  files->push_back({"audio_tokenizer/config.json", Indented(config)});
  files->push_back({"audio_tokenizer/model.safetensors", TinyShard(filler, "encoder.conv1.weight", {32, 16, 3})});
}

constexpr char kChatTemplateName[] = "chat_template.jinja";
constexpr char kChatTemplate[] =
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}\n";

}  // namespace

Result<bool> HoldsCompanions(FileSystem& files) {
  MIMO_ASSIGN_OR_RETURN(const auto info, files.Stat(kChatTemplateName));
  if (!info || info->kind != FileKind::kRegular || info->size + 1 != sizeof kChatTemplate) return false;
  MIMO_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(files, kChatTemplateName, info->size));
  return text == kChatTemplate;
}

Result<std::vector<SmallFile>> Companions(const SynthPlan& plan) {
  const Filler filler(plan.options.seed);
  std::vector<SmallFile> files;
  Json config;
  try {
    MIMO_ASSIGN_OR_RETURN(config, ParseJson<Json>(plan.config, "config.json"));
    std::set<std::string> modules;
    const Json auto_map = config.value("auto_map", Json::object());
    for (const auto& entry : auto_map.items()) {
      const std::string target = entry.value().get<std::string>();
      modules.insert(target.substr(0, target.find('.')));
    }
    for (const std::string& module : modules)
      files.push_back({module + ".py", "# Stand-in for the model code of " + plan.preset.name + ".\n"});
    Json tokenizer = {{"tokenizer_class", plan.preset.tokenizer_class},
                      {"model_max_length", config.value("max_position_embeddings", 262144)},
                      {"eos_token", "<|im_end|>"},
                      {"pad_token", "<|endoftext|>"}};
    files.push_back({"tokenizer_config.json", Indented(tokenizer)});
    Json generation = {{"do_sample", true}, {"temperature", 1.0}, {"top_p", 0.95}};
    if (config.contains("eos_token_id")) generation["eos_token_id"] = config["eos_token_id"];
    files.push_back({"generation_config.json", Indented(generation)});
  } catch (const Json::exception& e) {
    return BadInput("the config of preset " + plan.preset.name + " has a malformed field").Found(e.what());
  }
  files.push_back({kChatTemplateName, kChatTemplate});
  for (const std::string& directory : plan.preset.subdirectories) {
    if (directory == "dflash") AddDrafter(plan, filler, &files);
    if (directory == "audio_tokenizer" && plan.options.towers) AddAudioTokenizer(filler, &files);
  }
  return files;
}

std::string IndexText(const SynthPlan& plan) {
  Json metadata = {{"total_size", plan.payload_bytes}};
  if (!plan.preset.save_format.empty()) metadata["save_format"] = plan.preset.save_format;
  if (plan.preset.tp_size) metadata["tp_size"] = *plan.preset.tp_size;
  nlohmann::json weight_map = nlohmann::json::object();  // sorts by name
  for (const SynthFile& file : plan.files) {
    for (const SynthTensor& tensor : file.tensors) weight_map[tensor.info.name] = file.name;
  }
  std::string names = weight_map.dump(4);
  names.insert(names.size() - 1, "  ");  // its closing brace, two levels in
  return "{\n  \"metadata\": " + metadata.dump() + ",\n  \"weight_map\": " + names + "\n}\n";
}

}  // namespace mimo
