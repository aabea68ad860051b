// What a file that travels with a model is, by its name and where it lies.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>

namespace mimo {

enum class CarriedClass : uint8_t {
  kIgnored,     // nothing that is served depends on it
  kTensors,     // safetensors of another model, or tensors of this one that no table knows
  kBytes,       // tensors in a container that is not read
  kTokenizer,   // tokenizer.json, tokenizer_config.json
  kVocabulary,  // says again what a tokenizer.json says: merges.txt, special_tokens_map.json
  kTemplate,    // of chats
  kGeneration,  // generation_config.json
  kCode,        // *.py
  kSettings,    // config.json of another model, of processors
};

// "dflash" of "dflash/config.json"; "" at the top.
std::string FolderOf(const std::string& name);

// `models`: the directories that hold another model's files (IsModelFile); what lies in others is ignored.
CarriedClass ClassOfCarried(const std::string& name, const std::set<std::string>& models);

// Whether a file makes its directory another model's: tensors, or a config.json.
bool IsModelFile(const std::string& name);

}  // namespace mimo
