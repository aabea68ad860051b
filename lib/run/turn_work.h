// Transposed units of one step in memory.
#pragma once

#include "lib/base/status.h"
#include "lib/run/backend.h"
#include "lib/run/step_layout.h"
#include "lib/run/step_result.h"
#include "lib/run/steps.h"

namespace mimo {

// Reads every source row of a unit once, with the scales of those that are decoded; makes all its target rows.
void PlaceTurn(const TurnUnit& unit, Needs* needs);

// Turns over the pieces of every run of target rows, in the order of the plan, and emits the run. kDevice when the
// backend fails.
Status MakeTurn(const StepBuffer& buffer, const TurnUnit& unit, Backend& backend, StepResult* result);

}  // namespace mimo
