// Options that say how a conversion is run.
#pragma once

#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/run/options.h"

namespace mimo {

// --device: auto, cpu, cuda or cuda:INDEX. kUsage for anything else.
Status ReadDevice(const std::string& text, RunOptions* run);

// --min-sqnr: what does not hold of an encoding rejects it, for which its errors are measured. kUsage.
Status ReadThresholds(const std::vector<std::string>& words, RunOptions* run);

}  // namespace mimo
