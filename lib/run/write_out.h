// Writes what a step has made into the files of the output.
#pragma once

#include <cstdint>

#include "lib/base/status.h"
#include "lib/run/run_state.h"
#include "lib/run/unit_run.h"

namespace mimo {

// From any thread. The bytes that were written; kIo.
Result<uint64_t> WriteOut(RunState& run, UnitRun& unit, const StepResult& result);

}  // namespace mimo
