// What a comparison has found so far, in a file: a comparison of terabytes that was stopped goes on where it was.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/verify/compare/compare.h"

namespace mimo {

class CompareState {
 public:
  // Reads `path`, which is made when it is not there; `key` says what is compared. kUsage: the file is of another
  // comparison, or something else. A line that was not finished when the run ended is forgotten. `fs` outlives it.
  static Result<CompareState> Open(FileSystem& fs, const std::string& path, const std::string& key);

  // What is known of a tensor, by its name: fills all that comparing rows finds out. False: nothing.
  bool Take(TensorComparison* tensor) const;
  // Adds a line for each, and has them reach the disk.
  Status Add(const std::vector<const TensorComparison*>& tensors);

 private:
  FileSystem* fs_ = nullptr;
  std::string path_;
  uint64_t end_ = 0;  // of the finished lines
  std::map<std::string, TensorComparison> known_;
};

// Of two checkpoints as they lie there: changes when a file of either does.
std::string CompareKey(const LogicalCheckpoint& a, const LogicalCheckpoint& b);

}  // namespace mimo
