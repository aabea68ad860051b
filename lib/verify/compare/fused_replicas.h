// Replicas of KV heads within one fused array, of which one alone is read.
#pragma once

#include <vector>

#include "lib/verify/compare/compare.h"

namespace mimo {

// Adds a replica.differs for every attention of `side`, a directory with more chunks than KV heads, whose copies of a
// KV head are not of the same bytes, scales included; in the order of the catalogue. kIo.
Status CompareFusedReplicas(const LogicalCheckpoint& side, const CompareOptions& options,
                            std::vector<CompareDifference>* differences);

}  // namespace mimo
