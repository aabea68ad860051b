// Hashes of the values that a run has written, for its manifest.
#pragma once

#include "lib/run/value_hasher.h"
#include "lib/verify/logical/logical_hash.h"

namespace mimo {

class OutputHasher final : public ValueHasher {
 public:
  // `options` without go_on, which the run has.
  explicit OutputHasher(LogicalHashOptions options) : options_(std::move(options)) {}

  Status Check(FileSystem& planned, const std::string& root, const OpenOptions& options) override;
  Result<std::vector<LogicalHash>> Hash(FileSystem& written, const std::string& root, const OpenOptions& options,
                                        const std::function<Status()>& go_on) override;

 private:
  const LogicalHashOptions options_;
};

}  // namespace mimo
