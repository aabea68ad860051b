// What a conversion takes along and what it leaves behind, of what people do not expect: tensor files beside those of
// the index, scales of the KV cache against what declares them, rows beyond the vocabulary.
#pragma once

#include <vector>

#include "lib/forms/cut_rows.h"
#include "lib/judge/finding.h"
#include "lib/model/inventory.h"

namespace mimo {

// Reads nothing. `stored`: the catalogue of what lies there, whose strays and declarations are judged. `inventory`: of
// what the checkpoint is understood as; null where it is not. `cut`: counted already.
Verdict JudgeTravel(const Catalogue& stored, const Inventory* inventory, const std::vector<CutRows>& cut);

}  // namespace mimo
