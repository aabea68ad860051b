#include "lib/verify/compare/share_out.h"

#include <algorithm>
#include <atomic>

#include "lib/base/workers.h"
#include "lib/run/memory_budget.h"

namespace mimo {
namespace {

// Strips of both sides, sums of rows and sketches of a layer: more than nearly all tensors take.
constexpr uint64_t kSecondLookBytes = 256 << 20;

}  // namespace

int WorkersOfSecondLook(const CompareOptions& options) {
  const uint64_t memory = options.memory_bytes > 0 ? options.memory_bytes : DefaultMemoryBytes();
  const auto threads = static_cast<uint64_t>(options.threads > 0 ? options.threads : ThreadsOfMachine());
  return static_cast<int>(std::clamp<uint64_t>(memory / kSecondLookBytes, 1, threads));
}

Status ShareOut(const CompareOptions& options, size_t shares, const std::function<Status(int, size_t)>& look) {
  std::atomic<size_t> next = 0;
  const auto count = std::min(static_cast<size_t>(WorkersOfSecondLook(options)), std::max<size_t>(1, shares));
  Workers workers(static_cast<int>(count), "try again with fewer --threads");
  return workers.Run([&](int worker) -> Status {
    for (size_t at = next++; at < shares && !workers.stopped(); at = next++) MIMO_RETURN_IF_ERROR(look(worker, at));
    return {};
  });
}

}  // namespace mimo
