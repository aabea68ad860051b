// Shares of a second look, on several threads: whoever takes which, the results are the same.
#pragma once

#include <cstddef>
#include <functional>

#include "lib/verify/compare/compare.h"

namespace mimo {

// How many workers options.threads and options.memory_bytes allow, of which each may hold 256 MiB.
int WorkersOfSecondLook(const CompareOptions& options);

// Calls look(worker, share) for every share below `shares` once, `worker` below WorkersOfSecondLook(options): shares
// are taken in their order, and no two calls of one worker overlap. The first error in time ends it; kIo where a worker
// has no memory.
Status ShareOut(const CompareOptions& options, size_t shares, const std::function<Status(int, size_t)>& look);

}  // namespace mimo
