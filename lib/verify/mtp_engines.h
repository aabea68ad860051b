// What each version of an engine does with the MTP layers of a checkpoint. The knowledge is data: "mtp" of
// schemas/engines.json; here are the facts that its rules speak of.
#pragma once

#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/forms/rules.h"

namespace mimo {

struct MtpEngine {
  std::string id, engine, version;
  std::string outcome;  // a key of "mtp_outcomes": "all", "first", "drops", "refuses", "unfit", "none", "unknown"
  std::string note;     // why
  std::vector<std::string> sources;
};

// Those with an entry for `family` (Family::name), in the order of the table. `facts`: docs/adding-a-model.md.
// kBadInput when the table is malformed or asks for a fact that there is not.
Result<std::vector<MtpEngine>> JudgeMtpEngines(const std::string& family, const Facts& facts);

}  // namespace mimo
