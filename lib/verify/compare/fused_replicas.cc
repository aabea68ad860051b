#include "lib/verify/compare/fused_replicas.h"

#include "lib/judge/copies.h"

namespace mimo {

Status CompareFusedReplicas(const LogicalCheckpoint& side, const CompareOptions& options,
                            std::vector<CompareDifference>* differences) {
  const auto read = [&](const StoredArray& array, int64_t row, std::span<std::byte> out) {
    return side.ReadRows(array, row, out);
  };
  MIMO_ASSIGN_OR_RETURN(const std::vector<UnequalCopy> unequal, FindUnequalCopies(read, side.checkpoint(), {.threads = options.threads}));
  for (const UnequalCopy& one : unequal)
    differences->push_back({"replica.differs", side.checkpoint().catalogue().arrays[one.array].name,
                            "in " + side.root() + ": rows from " + std::to_string(one.second_row) +
                                " are a copy of those from " + std::to_string(one.first_row) +
                                ", and hold something else: " + one.what,
                            std::nullopt});
  return {};
}

}  // namespace mimo
