#include "lib/verify/rehash.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <thread>

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
  Rehash(FileSystem& fs, const std::vector<std::string>& paths, const std::vector<RehashItem>& items,
         ProgressObserver* progress)
      : fs_(fs), paths_(paths), items_(items), progress_(progress), hashes_(items.size()) {}

  Result<std::vector<Hash128>> Run(int threads) {
    if (threads <= 0) threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    uint64_t total = 0;
    for (const RehashItem& item : items_) total += item.rows * item.row_bytes;
    if (progress_ != nullptr) progress_->Start(total);
    std::vector<std::thread> workers;
    for (int i = 1; i < threads; ++i) workers.emplace_back([this] { Work(); });
    Work();
    for (std::thread& worker : workers) worker.join();
    if (progress_ != nullptr) progress_->Finish();
    MIMO_RETURN_IF_ERROR(std::move(status_));
    return std::move(hashes_);
  }

 private:
  std::optional<Strip> Next() {
    const std::lock_guard lock(mutex_);
    if (!status_.ok()) return std::nullopt;
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

  void Work() {
    std::vector<std::byte> buffer;
    std::unique_ptr<ReadableFile> file;
    uint32_t open = 0;
    while (const auto strip = Next()) {
      const RehashItem& item = items_[strip->item];
      Status done;
      if (file == nullptr || open != item.file) {
        auto opened = fs_.OpenForRead(paths_[item.file]);
        if (opened.ok()) {
          file = std::move(opened).value();
          open = item.file;
        } else {
          done = opened.TakeError();
        }
      }
      buffer.resize(strip->rows * item.row_bytes);
      if (done.ok()) done = file->ReadAt(item.begin + strip->row * item.row_bytes, buffer);
      const Hash128 hash = HashRows(buffer, item.row_bytes, strip->row);
      const std::lock_guard lock(mutex_);
      if (!done.ok()) {
        if (status_.ok()) status_ = std::move(done);
        return;
      }
      hashes_[strip->item] += hash;
      if (progress_ != nullptr) progress_->Advance(buffer.size());
    }
  }

  FileSystem& fs_;
  const std::vector<std::string>& paths_;
  const std::vector<RehashItem>& items_;
  ProgressObserver* const progress_;
  std::mutex mutex_;
  Strip next_;
  std::vector<Hash128> hashes_;
  Status status_;
};

}  // namespace

Result<std::vector<Hash128>> RehashTensors(FileSystem& fs, const std::vector<std::string>& paths,
                                           const std::vector<RehashItem>& items, int threads,
                                           ProgressObserver* progress) {
  return Rehash(fs, paths, items, progress).Run(threads);
}

}  // namespace mimo
