#include "lib/base/workers.h"

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

#include "lib/base/machine.h"

namespace mimo {
namespace {

// What `loop` comes to, exceptions included.
Status Outcome(const Workers::Loop& loop, int index, const std::string& advice) {
  try {
    return loop(index);
  } catch (const std::exception& e) {
    return IoError("a worker stopped").Found(e.what()).Advice(advice);
  } catch (...) {
    return IoError("a worker stopped").Advice(advice);
  }
}

}  // namespace

int ThreadsOfMachine() {
  return UsableProcessors();
}

Workers::Workers(int count, std::string advice, Start start)
    : count_(count),
      advice_(std::move(advice)),
      start_(std::move(start)),
      no_memory_(IoError("a worker stopped").Found("no memory").Advice(advice_)) {}

void Workers::Work(const Loop& loop, const std::function<void()>& wake, int index) noexcept {
  Status status;
  bool said = true;
  try {
    status = Outcome(loop, index, advice_);
  } catch (...) {  // no memory for the words of an error
    said = false;
  }
  if (said && status.ok()) return;
  {
    const std::lock_guard lock(mutex_);
    if (stopped_) return;
    status_ = std::move(said ? status : no_memory_);
    stopped_ = true;
  }
  if (wake) wake();
}

Status Workers::Run(const Loop& loop, const std::function<void()>& wake) {
  std::vector<std::thread> threads;
  try {
    threads.reserve(static_cast<size_t>(std::max(count_ - 1, 0)));
    for (int i = 1; i < count_; ++i) {
      const auto work = [this, &loop, &wake, i] { Work(loop, wake, i); };
      threads.push_back(start_ ? start_(work) : std::thread(work));
    }
  } catch (const std::exception&) {  // std::system_error: the system gives no more threads
  }
  Work(loop, wake, 0);
  for (std::thread& thread : threads) thread.join();
  return std::move(status_);
}

}  // namespace mimo
