#include "lib/forms/engine/engine_targets.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "lib/json/parse.h"

namespace mimo {
namespace {

using Json = nlohmann::json;

constexpr char kTargetTable[] = "targets.json";

Json TargetTable() {
  Result<Json> table = ParseJson<Json>(EmbeddedText(kTargetTable), kTargetTable);
  return table.ok() ? std::move(*table) : Json::object();
}

bool IsOf(const Json& entry, const std::string& family) {
  const Json& models = entry.at("models");
  return std::find(models.begin(), models.end(), family) != models.end();
}

bool IsVersion(const Json& entry, const std::string& engine, const std::string& version) {
  const std::string id = entry.at("id");
  return version.empty() || id == version || id == engine + "-" + version;
}

Result<EngineTarget> Choose(const std::string& engine, const Json& version, const Facts& facts) {
  EngineTarget target;
  target.engine = engine;
  target.version = version.at("id");
  target.text = engine + " " + version.at("version").get<std::string>();
  for (const Json& block : version.at("fp8_blocks")) target.fp8_blocks.emplace_back(block.at(0), block.at(1));
  for (const Json& rule : version.at("attention")) {
    MIMO_ASSIGN_OR_RETURN(const bool holds, AllHold(rule.at("when").get<std::vector<std::string>>(), facts));
    if (!holds) continue;
    const std::string word = rule.at("attention");
    const auto attention = FromWord(kEngineAttentions, word);
    if (!attention) return BadInput("malformed table: attention " + word).File(kTargetTable);
    target.attention = *attention;
    target.load = rule.at("load");
    target.note = rule.at("note");
    break;
  }
  return target;
}

}  // namespace

bool IsEngine(const std::string& name) {
  return TargetTable().at("engines").contains(name);
}

bool PadsVocabulary(const std::string& engine) {
  const Json table = TargetTable();
  const Json& padding = table.at("pads_vocabulary");
  return std::find(padding.begin(), padding.end(), engine) != padding.end();
}

SmallerBlocks SmallerExpertBlocks(const std::string& engine, const std::string& version, const std::string& family) {
  const Json table = TargetTable();
  for (const Json& entry : table.at("engines").at(engine))
    if (IsOf(entry, family) && IsVersion(entry, engine, version))
      return {entry.value("expert_block_min", int64_t{0}), entry.value("expert_block_note", std::string())};
  return {};
}

Result<EngineTarget> ChooseEngineTarget(const std::string& engine, const std::string& version,
                                        const std::string& family, const Facts& facts) {
  try {
    const Json table = TargetTable();
    std::string known;
    for (const Json& entry : table.at("engines").at(engine)) {
      if (!IsOf(entry, family)) continue;
      if (IsVersion(entry, engine, version)) return Choose(engine, entry, facts);
      known += (known.empty() ? "" : ", ") + entry.at("id").get<std::string>();
    }
    if (known.empty())
      return UsageError("nothing is known of how this engine loads models of this family")
          .Expected("--to hf, or an engine with an entry for " + family + " in schemas/targets.json")
          .Found("--to " + engine);
    return UsageError("an engine version that schemas/targets.json does not know")
        .Expected(known)
        .Found(version)
        .Advice("leave --engine-version out for the newest");
  } catch (const Json::exception& problem) {
    return BadInput(std::string("malformed table: ") + problem.what()).File(kTargetTable);
  }
}

}  // namespace mimo
