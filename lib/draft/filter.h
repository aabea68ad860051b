// --include and --exclude, on the names of weights; what lies beside a weight follows it.
#pragma once

#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/draft/draft.h"

namespace mimo {

// Takes out of the draft what the options leave out, with the reason; patterns see output names. kUsage for what is no
// regular expression, a pattern that matches nothing, a part of a group whose scales are shared, or when nothing is
// left.
Status ApplyFilter(const PlanOptions& options, Draft* draft);

}  // namespace mimo
