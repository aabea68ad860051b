#include "lib/base/workers.h"

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

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

int ThreadsOfMachine(int least) {
  return std::max(least, static_cast<int>(std::thread::hardware_concurrency()));
}

Workers::Workers(int count, std::string advice, Start start)
    : count_(count), advice_(std::move(advice)), start_(std::move(start)) {}

void Workers::Work(const Loop& loop, const std::function<void()>& wake, int index) {
  Status status = Outcome(loop, index, advice_);
  if (status.ok()) return;
  {
    const std::lock_guard lock(mutex_);
    if (stopped_) return;
    status_ = std::move(status);
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
