// What travels with a model beside its tensors, of two checkpoints: other models in directories of their own (dflash/,
// audio_tokenizer/), tokenizer, chat template, generation config, remote code.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "lib/verify/compare/compare.h"
#include "lib/verify/logical/logical.h"

namespace mimo {

// What patterns see of a place: "carried/tokenizer.json".
inline constexpr char kCarriedPrefix[] = "carried/";

struct CarriedComparison {
  std::vector<CompareDifference> differences;  // carried.*; no place is a tensor of the model
  std::vector<std::string> notes;
};

// Compares tensors of carried files by names, types, shapes and bytes, wherever in their directory they lie; documents
// by what they say; code and templates by their text. What a form has no place for (FormTraits::companions) is a note;
// README, licences, pictures and the like are nothing. `takes` is asked of every place under kCarriedPrefix: what it
// does not take is not read. kIo; kBadInput: a file became shorter meanwhile.
Result<CarriedComparison> CompareCarried(const LogicalCheckpoint& a, const LogicalCheckpoint& b,
                                         const std::function<bool(const std::string&)>& takes, int threads);

}  // namespace mimo
