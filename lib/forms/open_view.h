// What forms that are understood through a view share when they are opened.
#pragma once

#include <string>

#include "lib/forms/checkpoint.h"

namespace mimo {

// kUsage for --source-qkv: the form of the directory says how attention lies.
Status RefuseSourceQkv(const OpenOptions& options);

// Completes the checkpoint behind a view whose attention has `layout`, for reasons that `basis` and `evidence` say.
// There is no data to survey: how the arrays lie follows from the form. Errors of TakeInventory.
Status OpenView(View view, QkvLayout layout, std::string basis, std::string evidence, OpenedCheckpoint* opened);

// The basis of a layout that a marker states, or else the names of files and arrays.
std::string BasisOf(const Catalogue& stored);

}  // namespace mimo
