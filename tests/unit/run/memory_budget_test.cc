// The bound on data in flight holds, whoever asks in whatever order.
#include "lib/run/memory_budget.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

namespace mimo::memory_budget_test {
namespace {

TEST(MemoryBudget, NeverLendsMoreThanItHas) {
  MemoryBudget budget(1000, 250);
  std::atomic<uint64_t> lent{0}, most{0};
  const auto work = [&](uint64_t bytes) {
    for (int i = 0; i < 200; ++i) {
      const Buffer buffer = budget.Acquire(bytes);
      ASSERT_TRUE(buffer);
      const uint64_t now = lent += bytes;
      uint64_t seen = most;
      while (now > seen && !most.compare_exchange_weak(seen, now)) {
      }
      std::memset(buffer.data(), 1, bytes);
      lent -= bytes;
    }
  };
  std::vector<std::thread> threads;
  for (const uint64_t bytes : {100, 250, 900, 1000, 600}) threads.emplace_back(work, bytes);
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(most, 1000u);
  EXPECT_LE(budget.peak_bytes(), 1000u);
  EXPECT_FALSE(budget.Acquire(1001));
  budget.Cancel();
  EXPECT_FALSE(budget.Acquire(1));
}

TEST(MemoryBudget, BuffersOfTheUsualSizeAreReused) {
  MemoryBudget budget(4 << 20, 1 << 20);
  const std::byte* first = nullptr;
  {
    const Buffer buffer = budget.Acquire(10);
    first = buffer.data();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 4096, 0u);
  }
  EXPECT_EQ(budget.Acquire(1 << 20).data(), first);
  EXPECT_EQ(budget.peak_bytes(), uint64_t{1} << 20);
}

TEST(MemoryBudget, CancellingWakesWhoeverWaits) {
  MemoryBudget budget(1000, 1000);
  const Buffer all = budget.Acquire(1000);
  std::thread waiting([&] { EXPECT_FALSE(budget.Acquire(1)); });
  budget.Cancel();
  waiting.join();
}

TEST(MemoryBudget, ARunThatNamesNoneTakesAtMostEightGibibytes) {
  EXPECT_GT(DefaultMemoryBytes(), 0u);
  EXPECT_LE(DefaultMemoryBytes(), uint64_t{8} << 30);
}

}  // namespace
}  // namespace mimo::memory_budget_test
