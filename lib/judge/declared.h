// Whether what config.json declares is what is stored, in every module of every layer.
#pragma once

#include <cstdint>

#include "lib/judge/finding.h"
#include "lib/model/inventory.h"

namespace mimo {

enum class Subject : uint8_t {
  kSource,  // to be read by us, who go by the arrays: a wrong declaration is a warning
  kOutput,  // to be read by engines, who go by the declaration: what it gets wrong is an error
};

// Codecs of modules against quantization_config with its ignore lists, the type of plain weights, MTP layers, the
// projection layout, the scale format. Reads nothing but what was read already. `facts` of attention scales, when
// known: 0 of 0 tells nothing.
struct ScaleFacts {
  uint64_t scales = 0;
  uint64_t powers_of_two = 0;
};
Verdict JudgeDeclared(const Catalogue& catalogue, const Inventory& inventory, const ScaleFacts& facts, Subject subject);

// Of codecs of modules alone: of what a view shows, whose config is that of another form.
Verdict JudgeDeclaredModules(const Catalogue& catalogue, const Inventory& inventory, Subject subject);

}  // namespace mimo
