// Open files of a run, kept open while they are used and closed least recently used first: a checkpoint may hold more
// files than a process may have open.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "lib/base/status.h"

namespace mimo {

// Safe to use from several threads. `File` is ReadableFile or WritableFile.
template <class File>
class HandleCache {
 public:
  using Open = std::function<Result<std::unique_ptr<File>>(uint32_t)>;
  using Close = std::function<Status(File&)>;

  HandleCache(size_t limit, Open open, Close close) : limit_(limit), open_(std::move(open)), close_(std::move(close)) {}

  // The open file `index`; it stays open as long as someone holds it.
  Result<std::shared_ptr<File>> Get(uint32_t index) {
    const std::lock_guard lock(mutex_);
    if (auto found = by_index_.find(index); found != by_index_.end()) {
      order_.splice(order_.begin(), order_, found->second);
      return found->second->second;
    }
    MIMO_RETURN_IF_ERROR(MakeRoom());
    MIMO_ASSIGN_OR_RETURN(std::shared_ptr<File> file, open_(index));
    order_.emplace_front(index, file);
    by_index_[index] = order_.begin();
    return file;
  }

  // Closes `index` if it is open. Nobody may hold it.
  Status Drop(uint32_t index) {
    const std::lock_guard lock(mutex_);
    auto found = by_index_.find(index);
    return found == by_index_.end() ? Status() : Erase(found->second);
  }

 private:
  using Entry = std::pair<uint32_t, std::shared_ptr<File>>;

  Status MakeRoom() {
    for (auto it = order_.end(); it != order_.begin() && order_.size() >= limit_;) {
      --it;
      if (it->second.use_count() > 1) continue;
      const auto victim = it++;
      MIMO_RETURN_IF_ERROR(Erase(victim));
    }
    return {};
  }

  Status Erase(typename std::list<Entry>::iterator entry) {
    Status closed = close_(*entry->second);
    by_index_.erase(entry->first);
    order_.erase(entry);
    return closed;
  }

  const size_t limit_;
  const Open open_;
  const Close close_;
  std::mutex mutex_;
  std::list<Entry> order_;  // most recently used first
  std::unordered_map<uint32_t, typename std::list<Entry>::iterator> by_index_;
};

}  // namespace mimo
