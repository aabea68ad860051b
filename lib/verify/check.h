// Proves that a directory is what its manifest says.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/progress.h"
#include "lib/base/status.h"
#include "lib/results/logical_hash_json.h"

namespace mimo {

struct Difference {
  std::string file;    // relative to the directory
  std::string tensor;  // "" when it is about the file
  std::string what;
  std::string expected;
  std::string found;
  // "FILE TENSOR: WHAT (expected X, found Y)"
  std::string Line() const;
};

struct CheckReport {
  uint64_t files = 0;  // checked
  uint64_t tensors = 0;
  uint64_t bytes = 0;               // read
  uint64_t unhashed_tensors = 0;    // of linked files: length and header checked only
  bool manifest_holds_hash = true;  // false: it is of version 1, and nothing says whether it was changed
  // Of values, that the manifest holds: not compared here (CompareRecorded, lib/verify/logical/logical_hash.h).
  std::optional<std::vector<LogicalHash>> logical_hashes;
  std::vector<Difference> differences;  // by file, in the manifest's order; empty: all holds
  // kCheckFailed that lists the first differences, or ok.
  Status ToStatus() const;
};

struct CheckOptions {
  int threads = 0;                       // 0: one per CPU that the process may use
  ProgressObserver* progress = nullptr;  // may be null
};

// Re-hashes every tensor and carried file of an output, and checks that the set of files is complete and that headers,
// index and total_size agree. Memory does not depend on the size of the model. kBadInput: no manifest, or not a
// manifest; kIo: a file that is there cannot be read. What does not match is a difference, not an error.
Result<CheckReport> CheckDirectory(FileSystem& fs, const std::string& directory, const CheckOptions& options = {});

}  // namespace mimo
