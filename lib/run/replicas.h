// Replicas: rows that a plan takes from one place and that must be the same in another.
#pragma once

#include <cstddef>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/plan/plan.h"
#include "lib/run/claim.h"
#include "lib/run/options.h"
#include "lib/run/report.h"

namespace mimo {

// Compares the rows of these entries of Plan::equal, ascending, byte by byte, on the threads and in the memory of
// `options`. kBadInput names both arrays and the first row that differs, the same one on any number of threads; what
// `claim` says when it is to stop. Adds what was read to `report`.
Status CompareReplicas(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, const std::vector<size_t>& entries,
                       const RunOptions& options, const OutputClaim& claim, RunReport& report);

}  // namespace mimo
