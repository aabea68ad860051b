// The last step of every plan: what became of each array of the catalogue, whose plan it is, and its digest.
#pragma once

#include <functional>
#include <string>

#include "lib/plan/plan.h"

namespace mimo {

// `reason(array)`: why a catalogue array that no source reads is dropped; "" is "not needed". Nothing of the plan may
// change afterwards.
void FinishPlan(const Catalogue& stored, const std::function<std::string(uint32_t array)>& reason, Plan* plan);

}  // namespace mimo
