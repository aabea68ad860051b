#include "lib/verify/rehash.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <span>

#include "lib/base/workers.h"

namespace mimo {
namespace {

// What a thread takes at once, and what of it is read at once: little enough that what was read is hashed out of the
// cache of its core, and is written to no slower memory between.
constexpr uint64_t kStripBytes = 8 << 20;
constexpr uint64_t kReadBytes = 1 << 20;

// Rows [row, row + rows) of an item.
struct Strip {
  size_t item = 0;
  uint64_t row = 0;
  uint64_t rows = 0;
};

// Bytes that are about to be read, and so are not set before.
class RowBuffer {
 public:
  std::span<std::byte> Of(uint64_t bytes) {
    if (bytes > size_) {
      data_ = std::make_unique_for_overwrite<std::byte[]>(bytes);
      size_ = bytes;
    }
    return {data_.get(), bytes};
  }

 private:
  std::unique_ptr<std::byte[]> data_;
  uint64_t size_ = 0;
};

Result<Hash128> HashStrip(const ReadableFile& file, const RehashItem& item, const Strip& strip, RowBuffer& buffer) {
  const uint64_t most = std::max<uint64_t>(1, kReadBytes / item.row_bytes);
  Hash128 hash;
  for (uint64_t done = 0; done < strip.rows; done += std::min(most, strip.rows - done)) {
    const std::span<std::byte> rows = buffer.Of(std::min(most, strip.rows - done) * item.row_bytes);
    MIMO_RETURN_IF_ERROR(file.ReadAt(item.begin + (strip.row + done) * item.row_bytes, rows));
    hash += HashRows(rows, item.row_bytes, strip.row + done);
  }
  return hash;
}

}  // namespace

Result<std::vector<Hash128>> RehashTensors(FileSystem& fs, const std::vector<std::string>& paths,
                                           const std::vector<RehashItem>& items, int threads,
                                           ProgressObserver* progress) {
  std::vector<Strip> strips;
  uint64_t total = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    const RehashItem& item = items[i];
    if (item.row_bytes == 0) continue;
    total += item.rows * item.row_bytes;
    const uint64_t most = std::max<uint64_t>(1, kStripBytes / item.row_bytes);
    for (uint64_t row = 0; row < item.rows; row += most) strips.push_back({i, row, std::min(most, item.rows - row)});
  }
  std::atomic<size_t> next = 0;
  std::mutex mutex;  // guards hashes and progress
  std::vector<Hash128> hashes(items.size());
  Workers workers(threads > 0 ? threads : ThreadsOfMachine(), "lower --threads");
  if (progress != nullptr) progress->Start(total);
  Status run = workers.Run([&](int) -> Status {
    RowBuffer buffer;
    std::unique_ptr<ReadableFile> file;
    uint32_t open = 0;
    for (size_t s = next++; s < strips.size() && !workers.stopped(); s = next++) {
      const Strip& strip = strips[s];
      const RehashItem& item = items[strip.item];
      if (file == nullptr || open != item.file) {
        MIMO_ASSIGN_OR_RETURN(file, fs.OpenForRead(paths[item.file]));
        open = item.file;
      }
      MIMO_ASSIGN_OR_RETURN(const Hash128 hash, HashStrip(*file, item, strip, buffer));
      const std::lock_guard lock(mutex);
      hashes[strip.item] += hash;
      if (progress != nullptr) progress->Advance(strip.rows * item.row_bytes);
    }
    return {};
  });
  if (progress != nullptr) progress->Finish();
  MIMO_RETURN_IF_ERROR(std::move(run));
  return hashes;
}

}  // namespace mimo
