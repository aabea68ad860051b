// Which released model a checkpoint is, by its geometry and storage (IdentifyFamily of describe.h).
#include "lib/model/family.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "lib/inspect/describe.h"
#include "lib/json/parse.h"

namespace mimo {
namespace {

using Json = nlohmann::json;

std::string FirstStorage(const Catalogue& catalogue, Role role) {
  for (const StoredArray& array : catalogue.arrays) {
    if (array.id.role == role && HoldsElements(array.id.part)) return StorageName(catalogue, array);
  }
  return "none";
}

// max_position_embeddings, which tells releases of one geometry apart; 0 where the config has none.
int64_t Positions(const ModelConfig& config) {
  const Result<Json> json = ParseJson<Json>(config.text, config.path);
  if (!json.ok() || !json.value().is_object()) return 0;
  const auto found = json.value().find("max_position_embeddings");
  return found != json.value().end() && found->is_number_integer() ? found->get<int64_t>() : 0;
}

Facts FamilyFacts(const Catalogue& catalogue) {
  const ModelConfig& config = catalogue.config;
  const bool towers = std::any_of(catalogue.arrays.begin(), catalogue.arrays.end(), [](const StoredArray& array) {
    return array.id.role == Role::kVision || array.id.role == Role::kAudio;
  });
  return {{"model_type", config.model_type},
          {"hidden", config.hidden},
          {"layers", config.layers},
          {"heads", config.global.heads},
          {"logical_kv_heads", LogicalShape(config, false).kv_heads},
          {"logical_swa_kv_heads", LogicalShape(config, true).kv_heads},
          {"experts", config.experts},
          {"positions", Positions(config)},
          {"head_dim", config.global.head_dim},
          {"v_head_dim", config.global.v_head_dim},
          {"expert_storage", FirstStorage(catalogue, Role::kExpertDown)},
          {"router", FirstStorage(catalogue, Role::kRouter)},
          {"towers", towers ? "yes" : "no"},
          {"router_dtype", config.router_dtype.empty() ? "none" : config.router_dtype}};
}

std::string Sizes(const Facts& facts) {
  std::string text;
  for (const char* name : {"hidden", "layers", "heads", "experts"}) {
    text += (text.empty() ? "" : ", ") + Observed(name, facts);
  }
  return text;
}

}  // namespace

Result<std::string> IdentifyFamily(const Catalogue& catalogue, std::vector<std::string>* evidence) {
  const Facts facts = FamilyFacts(catalogue);
  const Family& family = *catalogue.config.family;
  try {
    MIMO_ASSIGN_OR_RETURN(const Json releases, ParseJson<Json>(family.SectionText("releases"), family.name));
    for (const Json& entry : releases) {
      const auto conditions = entry.at("when").get<std::vector<std::string>>();
      MIMO_ASSIGN_OR_RETURN(const bool holds, AllHold(conditions, facts));
      if (!holds) continue;
      for (const std::string& condition : conditions) evidence->push_back(Observed(condition, facts));
      if (entry.value("scaled", false)) {
        evidence->push_back("but not the size of a release (" + Sizes(facts) + "): cut down or synthetic");
      }
      return entry.at("name").get<std::string>();
    }
  } catch (const Json::exception& problem) {
    return BadInput(std::string("malformed table: ") + problem.what()).File(family.name);
  }
  evidence->push_back(Sizes(facts));
  evidence->push_back("no released model has this geometry");
  return family.generic;
}

}  // namespace mimo
