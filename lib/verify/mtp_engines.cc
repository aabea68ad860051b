#include "lib/verify/mtp_engines.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "lib/json/parse.h"

namespace mimo {
namespace {

using Json = nlohmann::json;

constexpr char kEngineTable[] = "engines.json";

// Takes outcome and note from the first rule that holds; false when none does.
Result<bool> Apply(const Json& rules, const Facts& facts, MtpEngine* engine) {
  for (const Json& rule : rules) {
    MIMO_ASSIGN_OR_RETURN(const bool holds, AllHold(rule.at("when").get<std::vector<std::string>>(), facts));
    if (!holds) continue;
    engine->outcome = rule.at("outcome");
    engine->note = rule.at("note");
    return true;
  }
  return false;
}

Result<MtpEngine> JudgeOne(const Json& entry, const Json& first, const Facts& facts) {
  MtpEngine engine;
  engine.id = entry.at("id");
  engine.engine = entry.at("engine");
  engine.version = entry.at("version");
  const auto mtp = entry.find("mtp");
  if (mtp != entry.end()) engine.sources = mtp->at("sources").get<std::vector<std::string>>();
  MIMO_ASSIGN_OR_RETURN(bool decided, Apply(first, facts, &engine));
  if (!decided && mtp != entry.end()) {
    MIMO_ASSIGN_OR_RETURN(decided, Apply(mtp->at("rules"), facts, &engine));
  }
  if (!decided) engine.outcome = "unknown";
  return engine;
}

}  // namespace

Result<std::vector<MtpEngine>> JudgeMtpEngines(const std::string& family, const Facts& facts) {
  std::vector<MtpEngine> engines;
  try {
    MIMO_ASSIGN_OR_RETURN(const Json table, ParseJson<Json>(EmbeddedText(kEngineTable), kEngineTable));
    for (const char* list : {"engines", "mtp_others"})
      for (const Json& entry : table.at(list)) {
        const Json& models = entry.at("models");
        if (std::find(models.begin(), models.end(), family) == models.end()) continue;
        MIMO_ASSIGN_OR_RETURN(MtpEngine engine, JudgeOne(entry, table.at("mtp_first"), facts));
        engines.push_back(std::move(engine));
      }
  } catch (const Json::exception& problem) {
    return BadInput(std::string("malformed table: ") + problem.what()).File(kEngineTable);
  }
  return engines;
}

}  // namespace mimo
