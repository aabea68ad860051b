#include "lib/run/memory_budget.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <utility>

#include "lib/base/machine.h"

namespace mimo {
namespace {

// Pages of their own: what is given back leaves the process, which no heap promises for blocks of changing sizes. Null
// when the system refuses.
std::byte* Allocate(uint64_t bytes) {
  void* data = mmap(nullptr, std::max<uint64_t>(bytes, 1), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return data == MAP_FAILED ? nullptr : static_cast<std::byte*>(data);
}

void Free(std::byte* data, uint64_t bytes) {
  munmap(data, std::max<uint64_t>(bytes, 1));
}

}  // namespace

uint64_t DefaultMemoryBytes() {
  constexpr uint64_t kMost = 8ull << 30;
  const uint64_t usable = UsableMemory();
  return usable == 0 ? kMost : std::min(kMost, usable / 4);
}

Buffer::Buffer(Buffer&& other) noexcept {
  *this = std::move(other);
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(budget_, other.budget_);
  std::swap(data_, other.data_);
  std::swap(capacity_, other.capacity_);
  return *this;
}

Buffer::~Buffer() {
  if (budget_ != nullptr) budget_->Release(data_, capacity_);
}

MemoryBudget::~MemoryBudget() {
  for (std::byte* data : idle_) Free(data, unit_);
}

Buffer MemoryBudget::Acquire(uint64_t bytes) {
  Buffer buffer;
  if (bytes > total_) return buffer;
  const uint64_t capacity = bytes <= unit_ ? unit_ : bytes;
  std::unique_lock lock(mutex_);
  const uint64_t ticket = next_ticket_++;
  changed_.wait(lock, [&] { return cancelled_ || (serving_ == ticket && lent_ + capacity <= total_); });
  ++serving_;
  changed_.notify_all();
  if (cancelled_) return buffer;
  if (capacity == unit_ && !idle_.empty()) {
    buffer.data_ = idle_.back();
    idle_.pop_back();
  } else {
    while (!idle_.empty() && lent_ + idle_.size() * unit_ + capacity > total_) {
      Free(idle_.back(), unit_);
      idle_.pop_back();
    }
    buffer.data_ = Allocate(capacity);
    if (buffer.data_ == nullptr) return buffer;
  }
  buffer.budget_ = this;
  buffer.capacity_ = capacity;
  lent_ += capacity;
  peak_ = std::max(peak_, lent_ + idle_.size() * unit_);
  return buffer;
}

void MemoryBudget::Release(std::byte* data, uint64_t capacity) {
  const std::lock_guard lock(mutex_);
  lent_ -= capacity;
  bool kept = false;
  try {
    if (capacity == unit_) {
      idle_.push_back(data);
      kept = true;
    }
  } catch (const std::bad_alloc&) {  // this is called by a destructor
  }
  if (!kept) Free(data, capacity);
  changed_.notify_all();
}

void MemoryBudget::Cancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  changed_.notify_all();
}

uint64_t MemoryBudget::peak_bytes() const {
  const std::lock_guard lock(mutex_);
  return peak_;
}

}  // namespace mimo
