// Loops on several threads: how everything that uses all cores shares work.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "lib/base/status.h"

namespace mimo {

// One per CPU that this process may use (UsableProcessors, machine.h).
int ThreadsOfMachine();

// A group of loops that take their shares of one task until nothing is left, or one of them fails. Use it once.
class Workers {
 public:
  // The body of worker `index` below the count; 0 runs on the thread of the caller. How many run decides nothing but
  // time: what is shared out may wait for nobody who has not taken a share.
  using Loop = std::function<Status(int index)>;
  // Starts a thread. Throws what std::thread throws where none is to be had.
  using Start = std::function<std::thread(std::function<void()>)>;

  // `advice` is what a user may do where a worker stops by an exception (no memory, most of all).
  Workers(int count, std::string advice, Start start = {});

  // Runs the loops and returns when all have ended, whatever happens; the first error of them in time. Goes on with the
  // threads that could be started, the caller's at the least. What a loop throws becomes kIo "a worker stopped", also
  // where there is no memory left to say more. `wake`, which may not throw, is called once, by the loop that failed
  // first, for loops that wait for something to look at stopped().
  Status Run(const Loop& loop, const std::function<void()>& wake = {});

  // Whether a loop has failed: the others take no more and end. From any thread.
  bool stopped() const { return stopped_; }

 private:
  void Work(const Loop& loop, const std::function<void()>& wake, int index) noexcept;

  const int count_;
  const std::string advice_;
  const Start start_;
  std::atomic<bool> stopped_ = false;
  std::mutex mutex_;
  Status status_;     // the first error
  Status no_memory_;  // made in advance
};

}  // namespace mimo
