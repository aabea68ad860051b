// The plan of giving the weights of a run back to the model that it came from: every array of the reference again, in
// its file and place, under its layout and codecs.
#pragma once

#include "lib/base/status.h"
#include "lib/form/checkpoint.h"
#include "lib/plan/plan.h"

namespace mimo {

// `merged`: of MergeLike (lib/form/like.h). Scales of the reference are kept where values fit unless
// options.fresh_scales. kUsage: options that would make something else of it, codecs that cannot be made from values.
Result<Plan> MakeLikePlan(const Checkpoint& merged, const PlanOptions& options);

}  // namespace mimo
