// A plan made from a view (lib/forms/view.h), in terms of the arrays that are stored.
#pragma once

#include "lib/forms/view.h"
#include "lib/plan/plan.h"

namespace mimo {

// Replaces the sources of `plan`, whose arrays are those of `view`, by stored ones, with the replicas to be compared.
// Outputs may not be marked unchanged, nor files linked. kUsage for what cannot be done in the same run: quantizing
// what is stored turned over, decoding what is stacked with global scales of its own.
Status ReadFromStored(const View& view, const Catalogue& stored, Plan* plan);

}  // namespace mimo
