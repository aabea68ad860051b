// The bound on data in flight: every step takes its buffer from here before it reads and gives it back after it has
// written.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

namespace mimo {

// The budget of a run that names none: min(8 GiB, a quarter of the memory that this process may use) (UsableMemory,
// lib/base/machine.h).
uint64_t DefaultMemoryBytes();

class MemoryBudget;

// Memory on loan. Given back by the destructor. Aligned to a page; the content is whatever the last user left.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();
  std::byte* data() const { return data_; }
  explicit operator bool() const { return budget_ != nullptr; }

 private:
  friend class MemoryBudget;
  MemoryBudget* budget_ = nullptr;
  std::byte* data_ = nullptr;
  uint64_t capacity_ = 0;
};

// Capacities of buffers on loan and kept for reuse never sum to more than `total`. Requests are served in the order of
// arrival, so a large one is not starved by small ones.
class MemoryBudget {
 public:
  // Requests up to `unit` bytes get a buffer of that size, which is kept and reused: its pages are faulted in only
  // once.
  MemoryBudget(uint64_t total, uint64_t unit) : total_(total), unit_(unit < total ? unit : total) {}
  ~MemoryBudget();
  MemoryBudget(const MemoryBudget&) = delete;
  MemoryBudget& operator=(const MemoryBudget&) = delete;

  // Waits until `bytes` are free. An empty Buffer when `bytes` exceeds the total, the system has no memory, or Cancel
  // was called.
  Buffer Acquire(uint64_t bytes);
  // Wakes all who wait; every Acquire from now on returns an empty Buffer.
  void Cancel();
  uint64_t peak_bytes() const;

 private:
  friend class Buffer;
  void Release(std::byte* data, uint64_t capacity);

  const uint64_t total_;
  const uint64_t unit_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::byte*> idle_;  // of unit_ bytes each
  uint64_t lent_ = 0;
  uint64_t peak_ = 0;
  uint64_t next_ticket_ = 0;
  uint64_t serving_ = 0;
  bool cancelled_ = false;
};

}  // namespace mimo
