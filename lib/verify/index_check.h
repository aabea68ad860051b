// Whether an index says where tensors really are.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"

namespace mimo {

struct IndexProblem {
  std::string tensor, what, expected, found;
};

// `expected`: tensor name -> file name; `path` is for messages. Never fails: a text that is no index is a problem.
std::vector<IndexProblem> CompareIndexText(const std::string& text, const std::string& path,
                                           std::map<std::string, std::string> expected, uint64_t total_size);
// The same of a file. kIo when it cannot be read.
Result<std::vector<IndexProblem>> CompareIndex(FileSystem& fs, const std::string& path,
                                               std::map<std::string, std::string> expected, uint64_t total_size);

}  // namespace mimo
