// Moved, converted, inverted and constant rows of one step in memory.
#pragma once

#include "lib/base/status.h"
#include "lib/run/backend.h"
#include "lib/run/step_layout.h"
#include "lib/run/step_result.h"
#include "lib/run/steps.h"

namespace mimo {

// Reads the rows of every source of a strip, with the scales of those that are decoded; makes the rows of every target
// that are not written from where they were read (DirectSource) and are not constant.
void PlaceStrip(const RowStrip& strip, Needs* needs);

// Makes and emits the rows of every target, in the order of the targets, each from its copies in their order. kDevice
// when the backend fails.
Status MakeStrip(const StepBuffer& buffer, const RowStrip& strip, Backend& backend, StepResult* result);

}  // namespace mimo
