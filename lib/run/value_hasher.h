// Who hashes the values of an output: above this room, which hands it the files of the output.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/forms/checkpoint.h"
#include "lib/results/logical_hash_json.h"

namespace mimo {

class ValueHasher {
 public:
  virtual ~ValueHasher() = default;
  // Before anything is written: whether the directory `root` of `planned`, which is made as it is read, is a checkpoint
  // whose values can be hashed. What Hash would say of it.
  virtual Status Check(FileSystem& planned, const std::string& root, const OpenOptions& options) = 0;
  // Of every tensor of what was written, by name. `go_on` is asked now and then, from any thread; its error ends it.
  virtual Result<std::vector<LogicalHash>> Hash(FileSystem& written, const std::string& root,
                                                const OpenOptions& options, const std::function<Status()>& go_on) = 0;
};

}  // namespace mimo
