// Every array of a reference again, with the weights of a run in the place of its own.
#pragma once

#include "lib/forms/form.h"

namespace mimo {

// Fills `draft` from a merged checkpoint (Planning::like): each output lies near the reference's array of its name.
// Scales of the reference are kept where values fit unless options.fresh_scales. kUsage: codecs that cannot be made
// from values.
Status FillLikePlan(Planning* p);

}  // namespace mimo
