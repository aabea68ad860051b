// The commands that repair the MTP layers of a checkpoint.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "lib/judge/finding.h"
#include "lib/verify/mtp.h"
#include "lib/verify/mtp_headers.h"

namespace mimo {

// What a repair follows from. What it refers to outlives the call.
struct MtpDamage {
  const std::string& root;
  const std::string& reference;        // "" where none was named: REF stands for it
  const MtpReport& report;             // with its findings
  const MtpHeaders& headers;           // of a Hugging Face directory; empty for other forms
  const std::optional<Finding>& rest;  // what keeps the checkpoint from opening beside its MTP layers
  bool has_place = true;               // the form holds MTP layers
  // Options of a conversion that comes first, since --like takes codes only where they lie as REF's do; "" for none.
  std::string detour = {};
};

// Empty where nothing is wrong, and where the form has no place for the layers.
std::vector<MtpRepair> RepairsOf(const MtpDamage& damage);

// `word` as a shell takes it for one word: in quotes where it must be.
std::string ShellWord(const std::string& word);

}  // namespace mimo
