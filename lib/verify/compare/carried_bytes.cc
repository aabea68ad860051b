#include "lib/verify/compare/carried_bytes.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <memory>
#include <mutex>
#include <span>

#include "lib/base/workers.h"

namespace mimo {
namespace {

constexpr uint64_t kRangeBytes = 8 << 20;   // that a thread takes at once
constexpr uint64_t kBufferBytes = 1 << 20;  // that it reads at once, of either side

// Bytes [at, at + bytes) of a pair.
struct Range {
  size_t pair = 0;
  uint64_t at = 0;
  uint64_t bytes = 0;
};

// Counts elements of `size` bytes that differ in two buffers; `before`: how many lie before these.
void CountDiffering(std::span<const std::byte> a, std::span<const std::byte> b, uint64_t size, uint64_t before,
                    ByteDifference* found) {
  if (std::memcmp(a.data(), b.data(), a.size()) == 0) return;
  for (uint64_t at = 0; at < a.size(); at += size) {
    if (std::memcmp(a.data() + at, b.data() + at, std::min(size, a.size() - at)) == 0) continue;
    const uint64_t number = before + at / size;
    found->first = found->elements == 0 ? number : std::min(found->first, number);
    ++found->elements;
  }
}

}  // namespace

Result<std::vector<ByteDifference>> CompareBytes(FileSystem& fs_a, FileSystem& fs_b, const std::vector<BytePair>& pairs,
                                                 int threads) {
  std::vector<Range> ranges;
  for (size_t p = 0; p < pairs.size(); ++p)
    for (uint64_t at = 0; at < pairs[p].bytes; at += kRangeBytes)
      ranges.push_back({p, at, std::min(kRangeBytes, pairs[p].bytes - at)});
  std::vector<ByteDifference> differences(pairs.size());
  std::atomic<size_t> next = 0;
  std::mutex mutex;  // guards differences
  Workers workers(threads > 0 ? threads : ThreadsOfMachine(), "lower --threads");
  Status run = workers.Run([&](int) -> Status {
    std::vector<std::byte> a, b;
    std::unique_ptr<ReadableFile> file_a, file_b;
    size_t open = pairs.size();
    for (size_t r = next++; r < ranges.size() && !workers.stopped(); r = next++) {
      const Range& range = ranges[r];
      const BytePair& pair = pairs[range.pair];
      if (open != range.pair) {
        MIMO_ASSIGN_OR_RETURN(file_a, fs_a.OpenForRead(pair.path_a));
        MIMO_ASSIGN_OR_RETURN(file_b, fs_b.OpenForRead(pair.path_b));
        open = range.pair;
      }
      ByteDifference found;
      for (uint64_t done = 0; done < range.bytes; done += a.size()) {
        a.resize(std::min(kBufferBytes, range.bytes - done));
        b.resize(a.size());
        const uint64_t at = range.at + done;
        MIMO_RETURN_IF_ERROR(file_a->ReadAt(pair.begin_a + at, a));
        MIMO_RETURN_IF_ERROR(file_b->ReadAt(pair.begin_b + at, b));
        CountDiffering(a, b, pair.element_bytes, at / pair.element_bytes, &found);
      }
      if (found.elements == 0) continue;
      const std::lock_guard lock(mutex);
      ByteDifference& sum = differences[range.pair];
      sum.first = sum.elements == 0 ? found.first : std::min(sum.first, found.first);
      sum.elements += found.elements;
    }
    return {};
  });
  MIMO_RETURN_IF_ERROR(std::move(run));
  return differences;
}

}  // namespace mimo
