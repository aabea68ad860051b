// Documents that travel with a model, by what they say: tokenizer, chat template, generation config, code.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>

namespace mimo {

// What of a document is a difference in what is served.
enum class TextMeaning {
  kJson,  // members, but for those that say who wrote the document, and the chat template; else every byte
  kText,  // every byte
};

// How two texts differ, for people: "line 3: ... against ..." or the member that differs first; nullopt where they say
// the same.
std::optional<std::string> TextDifference(const std::string& a, const std::string& b, TextMeaning meaning);

// The chat templates of one side by their name ("default" is that of most), wherever a tokenizer looks for them.
using ChatTemplates = std::map<std::string, std::string>;
// `tokenizer_config`: the text of tokenizer_config.json; `files`: those of *.jinja and chat_template.json, by their
// names relative to the directory. A file goes before what the config says.
ChatTemplates ChatTemplatesOf(const std::optional<std::string>& tokenizer_config,
                              const std::map<std::string, std::string>& files);

// Files of code that "auto_map" of a config names: "modeling_mimo_v2.py". Nothing of what is no JSON.
std::set<std::string> CodeNamedBy(const std::string& config);

// Whether a generation_config.json is what a package makes of config.json, and so says nothing of its own.
bool IsDerivedGeneration(const std::string& text);

}  // namespace mimo
