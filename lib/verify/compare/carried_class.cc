#include "lib/verify/compare/carried_class.h"

#include <algorithm>
#include <array>

#include "lib/model/file_names.h"

namespace mimo {
namespace {

constexpr std::string_view kTensors = ".safetensors";
constexpr std::array<std::string_view, 7> kContainers = {".bin", ".pt", ".pth", ".ckpt", ".npz", ".npy", ".onnx"};
constexpr std::array<std::string_view, 4> kTokenizers = {"tokenizer.json", "tokenizer_config.json", "tokenizer.model",
                                                         "tiktoken.model"};
constexpr std::array<std::string_view, 6> kVocabularies = {
    "vocab.json", "vocab.txt", "merges.txt", "special_tokens_map.json", "added_tokens.json", "spiece.model"};

template <size_t N>
bool IsOneOf(const std::array<std::string_view, N>& words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

std::string BaseOf(const std::string& name) {
  const size_t slash = name.rfind('/');
  return slash == std::string::npos ? name : name.substr(slash + 1);
}

}  // namespace

std::string FolderOf(const std::string& name) {
  const size_t slash = name.rfind('/');
  return slash == std::string::npos ? "" : name.substr(0, slash);
}

bool IsModelFile(const std::string& name) {
  return name.ends_with(kTensors) || BaseOf(name) == kConfigName;
}

CarriedClass ClassOfCarried(const std::string& name, const std::set<std::string>& models) {
  const std::string folder = FolderOf(name), base = BaseOf(name);
  if (name.starts_with(kOriginDirectory)) return CarriedClass::kIgnored;
  if (base.ends_with(".jinja") || base == "chat_template.json") return CarriedClass::kTemplate;
  if (!folder.empty() && !models.contains(folder)) return CarriedClass::kIgnored;
  if (base.ends_with(kTensors)) return CarriedClass::kTensors;
  if (base.ends_with(".py")) return CarriedClass::kCode;
  if (IsOneOf(kTokenizers, base) || base.ends_with(".tiktoken")) return CarriedClass::kTokenizer;
  if (IsOneOf(kVocabularies, base)) return CarriedClass::kVocabulary;
  if (base == "generation_config.json") return CarriedClass::kGeneration;
  if (base.ends_with("processor_config.json")) return CarriedClass::kSettings;
  if (folder.empty()) return CarriedClass::kIgnored;
  if (base == kConfigName) return CarriedClass::kSettings;
  const auto is_end = [&base](std::string_view end) { return base.ends_with(end); };
  return std::any_of(kContainers.begin(), kContainers.end(), is_end) ? CarriedClass::kBytes : CarriedClass::kIgnored;
}

}  // namespace mimo
