// Ranges of files that must be the same bytes, compared by several threads in little memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"

namespace mimo {

struct BytePair {
  std::string path_a, path_b;
  uint64_t begin_a = 0, begin_b = 0;  // from the start of the file
  uint64_t bytes = 0;                 // of each
  uint64_t element_bytes = 1;         // 1 to 8, a power of two; elements begin with the range
};

// What differs of one pair.
struct ByteDifference {
  uint64_t elements = 0;  // how many; 0: none
  uint64_t first = 0;     // the number of the first
};

// By pair. kBadInput: a file ends before its range; kIo. `threads` 0: one per CPU that this process may use.
Result<std::vector<ByteDifference>> CompareBytes(FileSystem& fs_a, FileSystem& fs_b, const std::vector<BytePair>& pairs,
                                                 int threads);

}  // namespace mimo
