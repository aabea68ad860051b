// Hashes stored tensors with several threads and little memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/hash.h"
#include "lib/base/progress.h"
#include "lib/base/status.h"

namespace mimo {

struct RehashItem {
  uint32_t tensor = 0;  // the caller's number
  uint32_t file = 0;    // into the paths
  uint64_t begin = 0;   // bytes from the start of the file
  uint64_t rows = 0;
  uint64_t row_bytes = 0;
};

// The tensor hash (lib/base/hash.h) of every item, on `threads` threads (0: one per CPU that the process may use). The
// first error ends it; kIo where a thread has no memory.
Result<std::vector<Hash128>> RehashTensors(FileSystem& fs, const std::vector<std::string>& paths,
                                           const std::vector<RehashItem>& items, int threads,
                                           ProgressObserver* progress);

}  // namespace mimo
