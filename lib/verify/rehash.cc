#include "lib/verify/rehash.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>

#include "lib/base/workers.h"

namespace mimo {
namespace {

constexpr uint64_t kStripBytes = 16 << 20;

// Rows [row, row + rows) of an item.
struct Strip {
  size_t item = 0;
  uint64_t row = 0;
  uint64_t rows = 0;
};

class Rehash {
 public:
  Rehash(FileSystem& fs, const std::vector<std::string>& paths, const std::vector<RehashItem>& items, int threads,
         ProgressObserver* progress)
      : fs_(fs),
        paths_(paths),
        items_(items),
        progress_(progress),
        workers_(threads > 0 ? threads : ThreadsOfMachine(), "lower --threads"),
        hashes_(items.size()) {}

  Result<std::vector<Hash128>> Run() {
    uint64_t total = 0;
    for (const RehashItem& item : items_) total += item.rows * item.row_bytes;
    if (progress_ != nullptr) progress_->Start(total);
    Status run = workers_.Run([this](int) { return Work(); });
    if (progress_ != nullptr) progress_->Finish();
    MIMO_RETURN_IF_ERROR(std::move(run));
    return std::move(hashes_);
  }

 private:
  std::optional<Strip> Next() {
    const std::lock_guard lock(mutex_);
    if (workers_.stopped()) return std::nullopt;
    while (next_.item < items_.size()) {
      const RehashItem& item = items_[next_.item];
      if (item.row_bytes == 0 || next_.row == item.rows) {
        next_ = {next_.item + 1, 0, 0};
        continue;
      }
      Strip strip = next_;
      strip.rows = std::min(item.rows - strip.row, std::max<uint64_t>(1, kStripBytes / item.row_bytes));
      next_.row += strip.rows;
      return strip;
    }
    return std::nullopt;
  }

  Status Work() {
    std::vector<std::byte> buffer;
    std::unique_ptr<ReadableFile> file;
    uint32_t open = 0;
    while (const auto strip = Next()) {
      const RehashItem& item = items_[strip->item];
      if (file == nullptr || open != item.file) {
        MIMO_ASSIGN_OR_RETURN(file, fs_.OpenForRead(paths_[item.file]));
        open = item.file;
      }
      buffer.resize(strip->rows * item.row_bytes);
      MIMO_RETURN_IF_ERROR(file->ReadAt(item.begin + strip->row * item.row_bytes, buffer));
      const Hash128 hash = HashRows(buffer, item.row_bytes, strip->row);
      const std::lock_guard lock(mutex_);
      hashes_[strip->item] += hash;
      if (progress_ != nullptr) progress_->Advance(buffer.size());
    }
    return {};
  }

  FileSystem& fs_;
  const std::vector<std::string>& paths_;
  const std::vector<RehashItem>& items_;
  ProgressObserver* const progress_;
  Workers workers_;
  std::mutex mutex_;  // guards all below
  Strip next_;
  std::vector<Hash128> hashes_;
};

}  // namespace

Result<std::vector<Hash128>> RehashTensors(FileSystem& fs, const std::vector<std::string>& paths,
                                           const std::vector<RehashItem>& items, int threads,
                                           ProgressObserver* progress) {
  return Rehash(fs, paths, items, threads, progress).Run();
}

}  // namespace mimo
