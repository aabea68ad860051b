#include "lib/inspect/oddities.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "lib/inspect/engines.h"
#include "lib/json/bytes.h"
#include "lib/json/parse.h"
#include "lib/model/role_groups.h"

namespace mimo {
namespace {

using Json = nlohmann::json;

std::string Count(uint64_t count, const std::string& what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

class OddityFinder {
 public:
  OddityFinder(const Catalogue& catalogue, const Inventory* inventory) : catalogue_(catalogue), inventory_(inventory) {
    Result<Json> config = ParseJson<Json>(catalogue.config.text, catalogue.config.path);
    json_ = config.ok() && config->is_object() ? std::move(*config) : Json::object();
  }

  std::vector<std::string> Find() {
    lines_ = catalogue_.oddities;
    Index();
    Layers();
    IgnoreLists();
    Storage();
    Attention();
    Companions();
    return std::move(lines_);
  }

 private:
  void Add(std::string line) { lines_.push_back(std::move(line)); }

  void Index() {
    const IndexInfo& index = catalogue_.index;
    if (!index.present) {
      if (catalogue_.files.size() > 1)
        Add("there is no model.safetensors.index.json: the shard headers are all there is");
      return;
    }
    if (!index.total_size) Add("the index has no total_size");
    const bool fused = std::any_of(catalogue_.arrays.begin(), catalogue_.arrays.end(),
                                   [](const StoredArray& a) { return a.id.role == Role::kAttnQkv; });
    if (!index.tp_size && fused)
      Add("the index has no tp_size: some readers take the chunk count of fused attention from it");
  }

  void Layers() {
    std::set<int> layers;
    uint64_t unknown = 0;
    std::string example;
    for (const StoredArray& array : catalogue_.arrays) {
      if (array.id.mtp) layers.insert(array.id.layer);
      if (array.id.role != Role::kUnknown) continue;
      if (unknown++ == 0) example = array.name;
    }
    if (unknown > 0) Add(Count(unknown, "tensor") + " of unknown role, such as " + example);
    const std::optional<int64_t>& said = catalogue_.config.nextn_layers;
    const auto stored = static_cast<int64_t>(layers.size());
    if (said && *said != stored) {
      Add("num_nextn_predict_layers says " + std::to_string(*said) + ", the files hold " +
          Count(layers.size(), "MTP layer"));
    } else if (!said && stored > 0) {
      Add("config.json does not say that the files hold " + Count(layers.size(), "MTP layer"));
    }
  }

  std::set<std::string> Ignored(const Json& quantization) const {
    std::set<std::string> names;
    for (const char* key : {"ignored_layers", "modules_to_not_convert", "ignore"}) {
      auto it = quantization.find(key);
      if (it == quantization.end() || !it->is_array()) continue;
      for (const Json& name : *it) {
        if (name.is_string()) names.insert(name.get<std::string>());
      }
    }
    return names;
  }

  // A stored array at or below the module. Parts of attention stand for each other: q_proj for qkv_proj and the
  // reverse.
  bool Matches(const std::string& module) const {
    std::string prefix = module + ".";
    for (const std::string_view part : {".q_proj.", ".k_proj.", ".v_proj.", ".qkv_proj."})
      if (prefix.ends_with(part)) prefix.resize(prefix.size() - part.size() + 1);
    auto it = std::lower_bound(catalogue_.arrays.begin(), catalogue_.arrays.end(), prefix,
                               [](const StoredArray& array, const std::string& text) { return array.name < text; });
    return it != catalogue_.arrays.end() && it->name.starts_with(prefix);
  }

  // Loaders that trust the list allocate codes and scales for what it leaves out.
  void IgnoreLists() {
    auto it = json_.find("quantization_config");
    if (it == json_.end() || !it->is_object()) return;
    const std::set<std::string> ignored = Ignored(*it);
    std::map<std::string, uint64_t> missing;
    uint64_t quantized = 0;
    for (const StoredArray& array : catalogue_.arrays) {
      if (!HoldsElements(array.id.part) || !IsLayerLinear(array.id.role)) continue;
      const std::string module = array.name.substr(0, array.name.rfind('.'));
      const std::string storage = StorageName(catalogue_, array);
      const bool plain = storage == "bf16" || storage == "fp16" || storage == "fp32";
      const bool listed =
          ignored.contains(module) || std::any_of(ignored.begin(), ignored.end(), [&](const std::string& name) {
            return name.ends_with('*') && module.starts_with(std::string_view(name).substr(0, name.size() - 1));
          });
      if (plain && !listed) ++missing[std::string(array.id.mtp ? "MTP " : "") + module.substr(module.rfind('.') + 1)];
      if (!plain && listed) ++quantized;
    }
    for (const auto& [kind, count] : missing) {
      Add(kind + " is stored without scales in " + Count(count, "module") + " that the ignore list does not name");
    }
    if (quantized > 0) Add("the ignore list names " + Count(quantized, "module") + " stored with scales");
    for (const std::string& name : ignored) {
      if (!name.starts_with("re:") && name.find('*') == std::string::npos && !Matches(name))
        Add("the ignore list names " + name + ", which matches no tensor");
    }
  }

  void Storage() {
    uint64_t cut = 0;
    std::string example;
    for (const StoredArray& scale : catalogue_.arrays) {
      if (scale.id.part != Part::kScale && scale.id.part != Part::kScaleInv) continue;
      const StoredArray* weight = catalogue_.Find(NameOfPart(scale.name, Part::kWeight));
      if (weight == nullptr) weight = catalogue_.Find(NameOfPart(scale.name, Part::kPacked));
      if (weight == nullptr || weight->file == scale.file) continue;
      if (cut++ == 0) example = weight->name;
    }
    if (cut > 0) Add(Count(cut, "weight") + " in another file than the scale, such as " + example);
    const std::string& said = catalogue_.config.store_dtype;
    for (const StoredArray& array : catalogue_.arrays) {
      if (array.id.role != Role::kExpertDown || !HoldsElements(array.id.part)) continue;
      const std::string storage = StorageName(catalogue_, array);
      if (!said.empty() && said != storage && (said == "mxfp4" || storage == "mxfp4")) {
        Add("store_dtype says " + said + ", the experts are " + storage);
      }
      break;
    }
  }

  void Attention() {
    if (inventory_ == nullptr) return;
    const std::string& said = catalogue_.config.projection_layout;
    const bool fused_said = said == "fused_qkv";
    if (fused_said != inventory_->fused && !inventory_->attention.empty()) {
      Add("attention_projection_layout is " + (said.empty() ? "absent (split)" : said) + ", the tensors are " +
          (inventory_->fused ? "fused" : "split"));
    }
  }

  bool Carries(const std::string& name) const {
    return std::any_of(catalogue_.carried.begin(), catalogue_.carried.end(),
                       [&](const CarriedFile& file) { return file.name == name; });
  }
  bool Holds(Role role) const {
    return std::any_of(catalogue_.arrays.begin(), catalogue_.arrays.end(),
                       [&](const StoredArray& array) { return array.id.role == role; });
  }

  // Code, towers and drafter that the config or the engines expect beside the tensors.
  void Companions() {
    const ModelConfig& config = catalogue_.config;
    for (const CarriedFile& file : catalogue_.carried)
      if (!IsUtf8(file.name))
        Add("the name of a file is not UTF-8, so that conversions refuse it: " + Printable(file.name));
    for (const CarriedFile& file : catalogue_.carried)
      if (!file.outside.empty())
        Add("a symbolic link leads out of the checkpoint, so that conversions refuse it: " + Printable(file.name) +
            " -> " + Printable(file.outside));
    if (config.has_vision != Holds(Role::kVision)) {
      Add(config.has_vision ? "vision_config without tensors of a vision tower"
                            : "a vision tower without vision_config");
    }
    if (config.has_audio != Holds(Role::kAudio)) {
      Add(config.has_audio ? "audio_config without tensors of an audio tower" : "an audio tower without audio_config");
    }
    auto map = json_.find("auto_map");
    if (map == json_.end() || !map->is_object() || map->empty()) {
      Add("no auto_map in config.json: transformers cannot find remote code for it");
    } else {
      std::set<std::string> modules;
      for (const auto& [key, value] : map->items()) {
        if (!value.is_string()) continue;
        const auto text = value.get<std::string>();
        if (text.find("--") == std::string::npos) modules.insert(text.substr(0, text.find('.')) + ".py");
      }
      for (const std::string& file : modules) {
        if (!Carries(file)) Add("auto_map names " + file + ", which is not there");
      }
    }
    if (Carries("dflash/config.json") && !Carries("dflash/mask_embedding.pt")) {
      Add("dflash/ lacks mask_embedding.pt, which its drafter needs");
    }
  }

  const Catalogue& catalogue_;
  const Inventory* inventory_;
  Json json_;
  std::vector<std::string> lines_;
};

}  // namespace

std::vector<std::string> FindOddities(const Catalogue& catalogue, const Inventory* inventory) {
  return OddityFinder(catalogue, inventory).Find();
}

}  // namespace mimo
