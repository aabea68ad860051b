// What Workers promises: all loops are joined, threads that cannot start are done without, what is thrown is an error,
// and the first error stops the others.
#include "lib/base/workers.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <new>
#include <stdexcept>
#include <system_error>

namespace mimo::workers_test {
namespace {

constexpr char kAdvice[] = "use fewer";

// Takes numbers below `count` until none is left.
class Numbers {
 public:
  explicit Numbers(int count) : count_(count) {}
  Status TakeAll(const Workers& workers) {
    while (!workers.stopped() && next_++ < count_) ++taken_;
    return {};
  }
  int taken() const { return taken_; }

 private:
  const int count_;
  std::atomic<int> next_ = 0;
  std::atomic<int> taken_ = 0;
};

// Gives `threads` threads and then none, as a system at its limit does.
Workers::Start Only(int threads, std::atomic<int>* started) {
  return [threads, started](std::function<void()> work) {
    if (started->load() == threads) throw std::system_error(EAGAIN, std::generic_category());
    ++*started;
    return std::thread(std::move(work));
  };
}

TEST(Workers, EveryLoopRunsOnceAndHasEndedWhenRunReturns) {
  std::array<std::atomic<int>, 4> runs{};
  std::atomic<int> ended = 0;
  Workers workers(4, kAdvice);
  const Status status = workers.Run([&](int index) -> Status {
    ++runs[static_cast<size_t>(index)];
    std::this_thread::yield();
    ++ended;
    return {};
  });
  EXPECT_TRUE(status.ok());
  EXPECT_EQ(ended, 4);
  for (const auto& count : runs) EXPECT_EQ(count, 1);
  EXPECT_FALSE(workers.stopped());
}

TEST(Workers, OneRunsOnTheThreadOfTheCaller) {
  std::thread::id id;
  Workers workers(1, kAdvice, [](std::function<void()>) -> std::thread { throw std::logic_error("not needed"); });
  EXPECT_TRUE(workers
                  .Run([&](int) -> Status {
                    id = std::this_thread::get_id();
                    return {};
                  })
                  .ok());
  EXPECT_EQ(id, std::this_thread::get_id());
}

TEST(Workers, GoOnWithTheThreadsThatStarted) {
  for (const int threads : {0, 1, 2}) {
    std::atomic<int> started = 0, loops = 0;
    Numbers numbers(1000);
    Workers workers(8, kAdvice, Only(threads, &started));
    const Status status = workers.Run([&](int) {
      ++loops;
      return numbers.TakeAll(workers);
    });
    EXPECT_TRUE(status.ok());
    EXPECT_EQ(loops, threads + 1);
    EXPECT_EQ(numbers.taken(), 1000);
  }
}

TEST(Workers, WhatIsThrownOnAnyThreadIsAnErrorWithAdvice) {
  for (const int thrower : {0, 1, 3}) {
    Workers workers(4, kAdvice);
    const Status status = workers.Run([&](int index) -> Status {
      if (index == thrower) throw std::bad_alloc();
      return {};
    });
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, ErrorCode::kIo);
    EXPECT_EQ(status.error().what, "a worker stopped");
    EXPECT_EQ(status.error().found, std::bad_alloc().what());
    EXPECT_EQ(status.error().advice, kAdvice);
  }
  Workers workers(2, kAdvice);
  EXPECT_EQ(workers.Run([](int) -> Status { throw 7; }).error().what, "a worker stopped");
}

TEST(Workers, TheFirstErrorStopsTheOthersAndIsTheOneThatIsReturned) {
  std::atomic<int> ended = 0;
  Workers workers(4, kAdvice);
  const Status status = workers.Run([&](int index) -> Status {
    if (index == 2) return BadInput("first");
    while (!workers.stopped()) std::this_thread::yield();
    ++ended;
    return BadInput("later");
  });
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().what, "first");
  EXPECT_EQ(ended, 3);
  EXPECT_TRUE(workers.stopped());
}

TEST(Workers, ThoseWhoWaitAreWokenOnce) {
  std::mutex mutex;
  std::condition_variable changed;
  int wakes = 0;
  Workers workers(4, kAdvice);
  const Status status = workers.Run(
      [&](int index) -> Status {
        if (index == 1) throw std::runtime_error("gone");
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return workers.stopped(); });
        return IoError("woken");
      },
      [&] {
        const std::lock_guard lock(mutex);
        ++wakes;
        changed.notify_all();
      });
  EXPECT_EQ(status.error().found, "gone");
  EXPECT_EQ(wakes, 1);
}

}  // namespace
}  // namespace mimo::workers_test
