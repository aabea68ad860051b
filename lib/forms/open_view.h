// What forms share when they are opened: completing what is understood through a view, and the rows that are cut off.
#pragma once

#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/forms/checkpoint.h"

namespace mimo {

// kUsage for --source-qkv: the form of the directory says how attention lies.
Status RefuseSourceQkv(const OpenOptions& options);

// Completes the checkpoint behind a view whose attention has `layout`, for reasons that `basis` and `evidence` say.
// There is no data to survey: how the arrays lie follows from the form. Rows beyond the vocabulary are counted. Errors
// of TakeInventory; kIo.
Status OpenView(FileSystem& fs, View view, QkvLayout layout, std::string basis, std::string evidence,
                OpenedCheckpoint* opened);

// The basis of a layout that a marker states, or else the names of files and arrays.
std::string BasisOf(const Catalogue& stored);

// Of the embedding and the output layer, where they are stored: rows that were added for ranks, as the marker says, and
// that the way back takes away; not counted yet. The checkpoint has its inventory.
std::vector<CutRows> RowsOfPadding(const Checkpoint& checkpoint);

}  // namespace mimo
