#include "lib/judge/oddities.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "lib/json/bytes.h"
#include "lib/json/parse.h"
#include "lib/model/role_groups.h"

namespace mimo {
namespace {

using Json = nlohmann::json;

class OddityFinder {
 public:
  explicit OddityFinder(const Catalogue& catalogue) : catalogue_(catalogue) {
    Result<Json> config = ParseJson<Json>(catalogue.config.text, catalogue.config.path);
    json_ = config.ok() && config->is_object() ? std::move(*config) : Json::object();
  }

  Verdict Find() {
    for (const std::string& line : catalogue_.oddities) Add("files.odd", line);
    Index();
    Unknown();
    Storage();
    Companions();
    return std::move(verdict_);
  }

 private:
  void Add(std::string_view id, std::string line, uint64_t count = 1) { verdict_.Add(id, "", std::move(line), count); }

  void Index() {
    const IndexInfo& index = catalogue_.index;
    if (!index.present) {
      if (catalogue_.files.size() > 1)
        Add("files.no_index", "there is no model.safetensors.index.json: the shard headers are all there is");
      return;
    }
    if (!index.total_size) Add("files.no_total_size", "the index has no total_size");
    const bool fused = std::any_of(catalogue_.arrays.begin(), catalogue_.arrays.end(),
                                   [](const StoredArray& a) { return a.id.role == Role::kAttnQkv; });
    if (!index.tp_size && fused)
      Add("files.no_tp_size", "the index has no tp_size: some readers take the chunk count of fused attention from it");
  }

  void Unknown() {
    uint64_t unknown = 0;
    std::string example;
    for (const StoredArray& array : catalogue_.arrays) {
      if (array.id.role != Role::kUnknown) continue;
      if (unknown++ == 0) example = array.name;
    }
    if (unknown > 0)
      Add("files.unknown_tensors", Counted(unknown, "tensor") + " of unknown role, such as " + example, unknown);
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
    if (cut > 0)
      Add("files.scale_elsewhere", Counted(cut, "weight") + " in another file than the scale, such as " + example, cut);
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
        Add("files.name", "the name of a file is not UTF-8, so that conversions refuse it: " + Printable(file.name));
    for (const CarriedFile& file : catalogue_.carried)
      if (!file.outside.empty())
        Add("files.link_outside", "a symbolic link leads out of the checkpoint, so that conversions refuse it: " +
                                      Printable(file.name) + " -> " + Printable(file.outside));
    if (config.has_vision != Holds(Role::kVision)) {
      Add("files.tower", config.has_vision ? "vision_config without tensors of a vision tower"
                                           : "a vision tower without vision_config");
    }
    if (config.has_audio != Holds(Role::kAudio)) {
      Add("files.tower",
          config.has_audio ? "audio_config without tensors of an audio tower" : "an audio tower without audio_config");
    }
    auto map = json_.find("auto_map");
    if (map == json_.end() || !map->is_object() || map->empty()) {
      Add("files.no_auto_map", "no auto_map in config.json: transformers cannot find remote code for it");
    } else {
      std::set<std::string> modules;
      for (const auto& [key, value] : map->items()) {
        if (!value.is_string()) continue;
        const auto text = value.get<std::string>();
        if (text.find("--") == std::string::npos) modules.insert(text.substr(0, text.find('.')) + ".py");
      }
      for (const std::string& file : modules) {
        if (!Carries(file)) Add("files.no_code", "auto_map names " + file + ", which is not there");
      }
    }
    if (Carries("dflash/config.json") && !Carries("dflash/mask_embedding.pt")) {
      Add("files.no_mask_embedding", "dflash/ lacks mask_embedding.pt, which its drafter needs");
    }
  }

  const Catalogue& catalogue_;
  Json json_;
  Verdict verdict_;
};

}  // namespace

Verdict FindOddities(const Catalogue& catalogue) {
  return OddityFinder(catalogue).Find();
}

}  // namespace mimo
