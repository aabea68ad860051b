#include "lib/judge/declared.h"

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>

#include "lib/json/parse.h"
#include "lib/model/declaration.h"
#include "lib/model/family.h"
#include "lib/model/role_groups.h"

namespace mimo {
namespace {

using Json = nlohmann::json;

// The modules of one name ("o_proj"), of decoder or MTP layers.
struct ModuleKind {
  uint64_t plain = 0, quantized = 0;
  // By what is declared and what is stored: names of modules.
  std::map<std::pair<StoredKind, StoredKind>, std::vector<std::string>> wrong;
};

std::string Word(StoredKind kind) {
  return std::string(WordOf(kStoredKinds, kind));
}
std::string ModuleOf(const std::string& array) {
  return array.substr(0, array.rfind('.'));
}

class DeclaredJudge {
 public:
  DeclaredJudge(const Catalogue& catalogue, const Inventory& inventory, const ScaleFacts& facts, Subject subject)
      : catalogue_(catalogue),
        inventory_(inventory),
        facts_(facts),
        subject_(subject),
        declaration_(catalogue.config.text) {
    Result<Json> config = ParseJson<Json>(catalogue.config.text, catalogue.config.path, kLongDocument);
    config_ = config.ok() && config->is_object() ? std::move(*config) : Json::object();
  }

  Verdict JudgeModules() {
    Modules();
    return std::move(verdict_);
  }

  Verdict Judge() {
    Modules();
    Lists();
    ScaleFormat();
    PlainTypes();
    MtpLayers();
    Projections();
    return std::move(verdict_);
  }

 private:
  // A declaration that readers would follow into wrong values: an error of an output.
  void Wrong(std::string_view id, std::string place, std::string evidence, uint64_t count) {
    Finding& finding = verdict_.Add(id, std::move(place), std::move(evidence), count);
    if (subject_ == Subject::kOutput) finding.severity = Severity::kError;
  }

  void Modules() {
    std::map<std::string, ModuleKind> kinds;
    uint64_t quantized = 0;
    std::string example;
    for (const Weight& weight : inventory_.weights) {
      if (!declaration_.Covers(weight.id.role)) continue;
      const std::string module = ModuleOf(catalogue_.arrays[weight.array].name);
      ModuleKind& kind = kinds[(weight.id.mtp ? "MTP " : "") + module.substr(module.rfind('.') + 1)];
      const StoredKind stored = KindOf(weight), declared = DeclaredOf(module, weight);
      ++(stored == StoredKind::kPlain ? kind.plain : kind.quantized);
      if (stored != StoredKind::kPlain && quantized++ == 0) example = module;
      if (IsStoredAs(declared, weight, catalogue_.config)) continue;
      if (stored == StoredKind::kPlain && IsUnlistedInReleases(catalogue_, weight.id))
        unlisted_.push_back(module);
      else
        kind.wrong[{declared, stored}].push_back(module);
    }
    if (!declaration_.present()) {
      if (quantized > 0)
        Wrong("declared.no_config", "config.json: quantization_config",
              "absent, and " + Counted(quantized, "module") + " with codes, such as " + example, quantized);
      return;
    }
    if (quantized == 0) {
      Wrong("declared.nothing_quantized", "config.json: quantization_config",
            "declares " + declaration_.method() + ", and no module of any layer has scales", 1);
      return;
    }
    for (const auto& [name, kind] : kinds) KindOfModules(name, kind);
    if (!unlisted_.empty())
      verdict_.Add("declared.unlisted_mtp", "config.json: quantization_config",
                   "in no ignore list: " + Counted(unlisted_.size(), "module") + " of MTP layers without scales, " +
                       Examples(unlisted_),
                   unlisted_.size());
  }

  // Codes are declared to be values where some reader takes them for ignored.
  StoredKind DeclaredOf(const std::string& module, const Weight& weight) const {
    const bool codes = weight.storage != Storage::kPlain;
    return codes && declaration_.MayIgnore(module, weight.id.role) ? StoredKind::kPlain
                                                                   : declaration_.Of(module, weight.id.role);
  }

  void KindOfModules(const std::string& name, const ModuleKind& kind) {
    for (const auto& [pair, modules] : kind.wrong) {
      const auto& [declared, stored] = pair;
      const uint64_t count = modules.size();
      const std::string seen = "declared " + Word(declared) + ", stored " + Word(stored) + ": " + name + " in " +
                               Counted(count, "module") + " (" + Examples(modules) + ")";
      Wrong(stored == StoredKind::kPlain     ? "declared.unlisted_module"
            : declared == StoredKind::kPlain ? "declared.ignored_codes"
                                             : "declared.codec",
            "config.json: quantization_config", seen, count);
    }
    if (kind.plain > 0 && kind.quantized > 0)
      verdict_.Add("declared.mixed_kind", name,
                   std::to_string(kind.plain) + " unquantized, " + std::to_string(kind.quantized) + " quantized",
                   kind.plain);
  }

  void Lists() {
    const std::vector<std::string>& alone = declaration_.in_one_list_only();
    if (!alone.empty())
      Wrong("declared.lists_differ", "config.json: quantization_config",
            "ignored_layers and modules_to_not_convert differ in " + Examples(alone), alone.size());
    std::vector<std::string> unmatched;
    for (const std::string& name : declaration_.ignored())
      if (!Matches(name)) unmatched.push_back(name);
    if (!unmatched.empty())
      verdict_.Add("declared.unmatched_name", "config.json: quantization_config",
                   "the ignore list names what matches no tensor: " + Examples(unmatched), unmatched.size());
  }

  // A stored array at or below the module. Parts of attention stand for each other, and merged gate and up for both.
  bool Matches(const std::string& module) const {
    constexpr std::array<std::string_view, 5> kParts = {".q_proj.", ".k_proj.", ".v_proj.", ".qkv_proj.",
                                                        ".gate_up_proj."};
    std::string prefix = module + ".";
    for (const std::string_view part : kParts)
      if (prefix.ends_with(part)) prefix.resize(prefix.size() - part.size() + 1);
    const auto it =
        std::lower_bound(catalogue_.arrays.begin(), catalogue_.arrays.end(), prefix,
                         [](const StoredArray& array, const std::string& text) { return array.name < text; });
    if (it != catalogue_.arrays.end() && it->name.starts_with(prefix)) return true;
    // A component or an end of names, which some readers match.
    const std::string inside = "." + prefix, end = "." + module;
    return module.find('.') == std::string::npos &&
           std::any_of(catalogue_.arrays.begin(), catalogue_.arrays.end(), [&](const StoredArray& array) {
             return array.name.find(inside) != std::string::npos || array.name.ends_with(end);
           });
  }

  void ScaleFormat() {
    if (catalogue_.config.scale_fmt != "ue8m0" || facts_.scales == facts_.powers_of_two) return;
    Wrong("declared.scale_format", "config.json: quantization_config.scale_fmt",
          "ue8m0, and " + std::to_string(facts_.scales - facts_.powers_of_two) + " of " +
              std::to_string(facts_.scales) + " attention scales are no powers of two",
          facts_.scales - facts_.powers_of_two);
  }

  // torch_dtype against the type of most unquantized matrices and norms.
  void PlainTypes() {
    std::string said;
    for (const char* key : {"dtype", "torch_dtype"})
      if (const auto it = config_.find(key); it != config_.end() && it->is_string()) said = it->get<std::string>();
    std::map<DType, uint64_t> counts;
    for (const Weight& weight : inventory_.weights) {
      if (weight.storage != Storage::kPlain || IsTower(weight.id.role)) continue;
      const TensorRule* rule = catalogue_.table->RuleOf(weight.id);
      if (rule != nullptr && rule->pinned()) continue;
      // Of parameters, so that fusing them changes nothing: fused attention is three.
      counts[catalogue_.arrays[weight.array].dtype] += weight.id.role == Role::kAttnQkv ? 3 : 1;
    }
    if (said.empty() || counts.empty()) return;
    const auto most = std::max_element(counts.begin(), counts.end(),
                                       [](const auto& a, const auto& b) { return a.second < b.second; });
    const std::string stored = most->first == DType::kBF16  ? "bfloat16"
                               : most->first == DType::kF16 ? "float16"
                                                            : "float32";
    const std::vector<DType>& released = catalogue_.config.family->plain;
    if (said == stored || std::find(released.begin(), released.end(), most->first) != released.end()) return;
    verdict_.Add("declared.dtype", "config.json: torch_dtype",
                 said + ", and " + Counted(most->second, "unquantized weight") + " in " + stored, most->second);
  }

  void MtpLayers() {
    const std::optional<int64_t>& said = catalogue_.config.nextn_layers;
    const int64_t stored = inventory_.mtp_layers;
    const std::string layers = std::to_string(stored) + (stored == 1 ? " MTP layer" : " MTP layers");
    const Family& family = *catalogue_.config.family;
    const std::string place = "config.json: " + family.NameOf(Field::kMtpLayers);
    if (said && *said != stored && stored == 0 && family.mtp.released_layers == 0)
      verdict_.Add("declared.mtp_never", place, std::to_string(*said) + ", and no release of the family holds any");
    else if (said && *said != stored)
      verdict_.Add("declared.mtp_count", place, std::to_string(*said) + ", the files hold " + layers);
    else if (!said && stored > 0)
      verdict_.Add("declared.mtp_unsaid", place, "absent, the files hold " + layers);
  }

  void Projections() {
    const std::string& said = catalogue_.config.projection_layout;
    if (inventory_.attention.empty() || (said == "fused_qkv") == inventory_.fused) return;
    verdict_.Add(
        "declared.projection_layout", "config.json: attention_projection_layout",
        (said.empty() ? "absent (split)" : said) + ", the tensors are " + (inventory_.fused ? "fused" : "split"));
  }

  const Catalogue& catalogue_;
  const Inventory& inventory_;
  const ScaleFacts facts_;
  const Subject subject_;
  Declaration declaration_;
  Json config_;
  Verdict verdict_;
  std::vector<std::string> unlisted_;
};

}  // namespace

Verdict JudgeDeclared(const Catalogue& catalogue, const Inventory& inventory, const ScaleFacts& facts,
                      Subject subject) {
  return DeclaredJudge(catalogue, inventory, facts, subject).Judge();
}

Verdict JudgeDeclaredModules(const Catalogue& catalogue, const Inventory& inventory, Subject subject) {
  return DeclaredJudge(catalogue, inventory, {}, subject).JudgeModules();
}

}  // namespace mimo
