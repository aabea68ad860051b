#include "lib/verify/logical/output_hasher.h"

namespace mimo {

Status OutputHasher::Check(FileSystem& planned, const std::string& root, const OpenOptions& options) {
  MIMO_ASSIGN_OR_RETURN(const auto opened, LogicalCheckpoint::Open(planned, root, options));
  return CheckHashMemory(*opened, options_);
}

Result<std::vector<LogicalHash>> OutputHasher::Hash(FileSystem& written, const std::string& root,
                                                    const OpenOptions& options, const std::function<Status()>& go_on) {
  MIMO_ASSIGN_OR_RETURN(const auto opened, LogicalCheckpoint::Open(written, root, options));
  LogicalHashOptions with_stop = options_;
  with_stop.go_on = go_on;
  return HashLogical(*opened, with_stop);
}

}  // namespace mimo
