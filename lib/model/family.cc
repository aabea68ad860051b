#include "lib/model/family.h"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "lib/json/parse.h"
#include "schemas/embedded.h"

namespace mimo {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr std::string_view kFolder = "models/";

Error BadDescription(std::string what) {
  return BadInput("bad description of a family: " + std::move(what)).Advice("see docs/adding-a-model.md");
}

// A '*' at the end of a pattern stands for anything.
bool Matches(const std::vector<std::string>& patterns, const std::string& text) {
  return std::any_of(patterns.begin(), patterns.end(), [&](std::string_view pattern) {
    if (!pattern.ends_with('*')) return pattern == text;
    pattern.remove_suffix(1);
    return std::string_view(text).starts_with(pattern);
  });
}

Result<LayerPattern> ParsePattern(const OrderedJson& entry) {
  using Kind = LayerPattern::Kind;
  LayerPattern pattern;
  if (entry.value("all", false)) {
    pattern.kind = Kind::kAll;
    return pattern;
  }
  for (const auto& [word, kind] : {std::pair("flags", Kind::kFlags), std::pair("behind", Kind::kBehind),
                                   std::pair("every", Kind::kEvery), std::pair("words", Kind::kWord)})
    if (entry.contains(word)) {
      pattern.kind = kind;
      pattern.key = entry.at(word).get<std::string>();
    }
  pattern.except = entry.value("except", "");
  pattern.word = entry.value("word", "");
  if (pattern.kind == Kind::kNoLayer || (pattern.kind == Kind::kWord) == pattern.word.empty())
    return BadDescription("no pattern of layers").Found(entry.dump());
  return pattern;
}

Status ParseConfigKeys(const OrderedJson& section, Family* family) {
  for (const auto& [name, entry] : section.items()) {
    const auto field = FromWord(kFields, name);
    if (!field) return BadDescription("unknown field of config.json").Found(name);
    ConfigKey key;
    key.keys = entry.at("keys").get<std::vector<std::string>>();
    if (entry.contains("default")) key.fallback = entry.at("default").get<int64_t>();
    if (key.keys.empty()) return BadDescription("a field without a key").Found(name);
    family->keys_[static_cast<size_t>(*field)] = std::move(key);
  }
  for (const Field field : {Field::kHidden, Field::kLayers, Field::kVocab, Field::kHeads})
    if (family->KeyOf(field) == nullptr)
      return BadDescription("a field that every family has is missing").Found(std::string(WordOf(kFields, field)));
  return {};
}

Result<MtpNaming> ParseMtp(const OrderedJson& section) {
  MtpNaming naming;
  naming.released_layers = section.at("released_layers").get<int64_t>();
  naming.windowed = section.value("windowed", false);
  naming.moe = section.value("moe", false);
  naming.drafter = section.value("drafter", "");
  for (const OrderedJson& entry : section.at("conventions"))
    naming.conventions.push_back({entry.at("id").get<std::string>(), entry.at("name").get<std::string>(),
                                  entry.at("prefix").get<std::string>(), entry.value("after_decoder", false)});
  naming.inner = section.value("inner", std::vector<std::string>());
  for (const OrderedJson& entry : section.value("rests", OrderedJson::array()))
    naming.rests.push_back({entry.at("from").get<std::string>(), entry.at("to").get<std::vector<std::string>>()});
  if (naming.conventions.empty()) return BadDescription("MTP layers without a name").Found(section.dump());
  return naming;
}

NeuronNaming ParseNeuron(const OrderedJson& section) {
  NeuronNaming naming;
  naming.architecture = section.at("architecture").get<std::string>();
  naming.stacks = section.at("stacks").get<std::string>();
  for (const OrderedJson& entry : section.at("renamed"))
    naming.renamed.emplace_back(entry.at("from").get<std::string>(), entry.at("to").get<std::string>());
  for (const OrderedJson& entry : section.value("notes", OrderedJson::array()))
    naming.notes.push_back({entry.value("when", ""), entry.at("text").get<std::string>()});
  naming.fuses = section.value("fuses", "");
  return naming;
}

struct Families {
  std::vector<std::unique_ptr<const Family>> owned;
  std::vector<const Family*> all;
};

Result<Families> ParseAll() {
  Families families;
  for (int i = 0; i < kEmbeddedFileCount; ++i) {
    const std::string_view path = kEmbeddedFiles[i].path;
    if (!path.starts_with(kFolder)) continue;
    Result<Family> family = ParseFamily(kEmbeddedFiles[i].content);
    if (!family.ok()) return family.TakeError().File("schemas/" + std::string(path));
    families.owned.push_back(std::make_unique<const Family>(std::move(family).value()));
    families.all.push_back(families.owned.back().get());
  }
  std::sort(families.all.begin(), families.all.end(),
            [](const Family* a, const Family* b) { return a->name < b->name; });
  return families;
}

}  // namespace

Result<Family> ParseFamily(std::string_view text) {
  Family family;
  try {
    MIMO_ASSIGN_OR_RETURN(const OrderedJson root, ParseJson<OrderedJson>(text, "a description of a family"));
    family.name = root.at("family").get<std::string>();
    family.title = root.at("title").get<std::string>();
    family.proven = root.at("proven").get<std::string>();
    family.generic = root.at("generic").get<std::string>();
    family.model_types = root.at("model_types").get<std::vector<std::string>>();
    family.architectures = root.at("architectures").get<std::vector<std::string>>();
    family.known_by = root.value("known_by", std::vector<std::string>());
    MIMO_RETURN_IF_ERROR(ParseConfigKeys(root.at("config"), &family));
    const OrderedJson flags = root.value("flags", OrderedJson::object());
    for (const auto& [name, entry] : flags.items())
      family.flags[name] = {entry.at("key").get<std::string>(), entry.value("default", false)};
    const OrderedJson& layers = root.at("layers");
    if (layers.contains("windowed")) {
      MIMO_ASSIGN_OR_RETURN(family.windowed, ParsePattern(layers.at("windowed")));
    }
    if (layers.contains("moe")) {
      MIMO_ASSIGN_OR_RETURN(family.moe, ParsePattern(layers.at("moe")));
    }
    for (const OrderedJson& word : root.value("plain", OrderedJson::array())) {
      const auto type = DTypeFromName(word.get<std::string>());
      if (!type) return BadDescription("an unknown type of weights").Found(word.dump());
      family.plain.push_back(*type);
    }
    family.fused_attention = root.at("fused_attention").get<bool>();
    MIMO_ASSIGN_OR_RETURN(family.table, ParseModelTable(text));
    MIMO_ASSIGN_OR_RETURN(family.mtp, ParseMtp(root.at("mtp")));
    if (root.contains("neuron")) family.neuron = ParseNeuron(root.at("neuron"));
    for (const auto& [key, value] : root.items())
      if (value.is_object() || value.is_array()) family.sections[key] = value.dump();
  } catch (const OrderedJson::exception& problem) {
    return BadDescription("not the expected JSON").Found(problem.what());
  }
  return family;
}

std::string_view Family::SectionText(const std::string& section) const {
  const auto found = sections.find(section);
  return found == sections.end() ? std::string_view() : std::string_view(found->second);
}

Result<const std::vector<const Family*>*> Family::All() {
  static const Result<Families> families = ParseAll();
  if (!families.ok()) return Error(families.error());
  return &families.value().all;
}

Result<const Family*> Family::Get(const std::string& name) {
  MIMO_ASSIGN_OR_RETURN(const std::vector<const Family*>* all, All());
  for (const Family* family : *all)
    if (family->name == name) return family;
  return BadDescription("there is none of this name").Found(name);
}

Result<const Family*> Family::Of(const std::string& model_type, const std::vector<std::string>& architectures,
                                 const std::function<bool(const std::string&)>& has) {
  MIMO_ASSIGN_OR_RETURN(const std::vector<const Family*>* all, All());
  for (const Family* family : *all)
    if (Matches(family->model_types, model_type)) return family;
  for (const Family* family : *all)
    if (family->IsCalled("", architectures)) return family;
  for (const Family* family : *all)
    if (!family->known_by.empty() && std::all_of(family->known_by.begin(), family->known_by.end(), has)) return family;
  return static_cast<const Family*>(nullptr);
}

bool Family::IsCalled(const std::string& model_type, const std::vector<std::string>& called) const {
  return Matches(model_types, model_type) ||
         std::any_of(called.begin(), called.end(), [&](const std::string& one) { return Matches(architectures, one); });
}

std::string KnownFamilies(bool with_types) {
  const auto all = Family::All();
  std::string text;
  if (!all.ok()) return text;
  for (const Family* family : *all.value()) {
    const bool last = family == all.value()->back();
    text += (text.empty() ? "" : with_types || !last ? ", " : " and ") + family->title;
    if (!with_types) continue;
    for (size_t i = 0; i < family->model_types.size(); ++i) text += (i == 0 ? " (" : ", ") + family->model_types[i];
    text += ")";
  }
  return text;
}

}  // namespace mimo
