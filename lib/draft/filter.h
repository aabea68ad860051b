// --include and --exclude, on the names of weights; what lies beside a weight follows it.
#pragma once

#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/draft/builder.h"

namespace mimo {

// Takes out of the plan what the options leave out; patterns see output names. `dropped` (by catalogue array) gets the
// reasons of what is no longer read. kUsage for what is no regular expression, a pattern that matches nothing, a part
// of a group whose scales are shared, or when nothing is left.
Status ApplyFilter(const PlanOptions& options, PlanBuilder& builder, std::vector<std::string>* dropped);

}  // namespace mimo
