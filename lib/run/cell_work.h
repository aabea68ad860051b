// Cells of a new block grid of one step in memory: moved, re-quantized, or made from values. On the CPU.
#pragma once

#include "lib/run/step_layout.h"
#include "lib/run/step_result.h"
#include "lib/run/steps.h"

namespace mimo {

// Reads the rows of every segment, with their row of scales, and the row of scales to keep; makes the codes of cells
// that are not moved, zeros of padding, and scales that are not copied.
void PlaceCell(const CellRow& cell, Needs* needs);

// Makes and emits the codes of every segment and then the row of scales, one block after the other by column; adds one
// CellDelta.
void MakeCell(const StepBuffer& buffer, const CellJob& cell, StepResult* result);

}  // namespace mimo
