// Replicas of KV heads within one fused array, of which one alone is read.
#pragma once

#include <vector>

#include "lib/verify/compare/compare.h"

namespace mimo {

// Adds a replica.differs for every attention of `side` that has more chunks than KV heads and unequal copies of a KV
// head (lib/judge/copies.h). kIo.
Status CompareFusedReplicas(const LogicalCheckpoint& side, const CompareOptions& options,
                            std::vector<CompareDifference>* differences);

}  // namespace mimo
