// What a command line of mimo-convert asks for beyond a copy.
#pragma once

#include <string>

#include "lib/forms/checkpoint.h"
#include "lib/plan/plan.h"

namespace mimo {

// Whether a plan of these options differs from a copy; --like names its second checkpoint.
bool AsksForSomething(const PlanOptions& options);

// Whether every tensor file of the plan is one of the source as it is.
bool LeavesAllAsItIs(const Plan& plan);

// kUsage: OUT would be a copy that nobody asked for; says what is there and what could be made of it. Errors of
// Describe.
Status NothingAsked(const std::string& root, const Checkpoint& checkpoint);

}  // namespace mimo
