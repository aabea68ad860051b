#include "lib/layout/gate_up.h"

#include <gtest/gtest.h>

namespace mimo::gate_up_test {
namespace {

using Kind = GateUpOrder::Kind;

// Rows of [gate ; up] by number, as they are saved: made as trainers make them, by cutting and joining.
std::vector<int64_t> SavedInTurns(int64_t rows, int64_t size, int64_t ranks) {
  std::vector<int64_t> gates, ups;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const int64_t each = rows / ranks;
    std::vector<int64_t> memory;
    for (int64_t block = 0; block < each / size; ++block)
      for (const int64_t member : {int64_t{0}, rows})
        for (int64_t i = 0; i < size; ++i) memory.push_back(member + rank * each + block * size + i);
    gates.insert(gates.end(), memory.begin(), memory.begin() + each);
    ups.insert(ups.end(), memory.begin() + each, memory.end());
  }
  gates.insert(gates.end(), ups.begin(), ups.end());
  return gates;
}
std::vector<int64_t> SavedInHalves(int64_t rows, int64_t ranks) {
  std::vector<int64_t> gates, ups;
  const int64_t shard = 2 * rows / ranks;
  for (int64_t rank = 0; rank < ranks; ++rank)
    for (int64_t i = 0; i < shard; ++i) (i < shard / 2 ? gates : ups).push_back(rank * shard + i);
  gates.insert(gates.end(), ups.begin(), ups.end());
  return gates;
}

void ExpectOrder(const GateUpOrder& order, int64_t rows, const std::vector<int64_t>& saved) {
  ASSERT_TRUE(GateUpFits(order, rows)) << order.ToString();
  std::vector<int64_t> restored(static_cast<size_t>(2 * rows), -1);
  for (const bool up : {false, true}) {
    int64_t next = 0;
    for (const GateUpRun& run : GateUpRuns(order, rows, up)) {
      EXPECT_EQ(run.row, next);
      next += run.rows;
      for (int64_t i = 0; i < run.rows; ++i)
        restored[static_cast<size_t>((up ? rows : 0) + run.row + i)] = saved[static_cast<size_t>(run.stored_row + i)];
    }
    EXPECT_EQ(next, rows);
  }
  for (int64_t row = 0; row < 2 * rows; ++row) {
    EXPECT_EQ(restored[static_cast<size_t>(row)], row) << order.ToString();
    EXPECT_EQ(GateUpRow(order, rows, row), saved[static_cast<size_t>(row)]) << order.ToString();
    EXPECT_EQ(saved[static_cast<size_t>(StoredGateUpRow(order, rows, row))], row) << order.ToString();
  }
}

TEST(GateUp, EveryOrderIsUndone) {
  for (const int64_t rows : {32, 64, 96, 128}) {
    for (const int64_t size : {1, 2, 8, 16, 32}) {
      ExpectOrder({Kind::kTurns, size}, rows, SavedInTurns(rows, size, 1));
      if (rows % (4 * size) == 0) ExpectOrder({Kind::kTurns, size, 4}, rows, SavedInTurns(rows, size, 4));
    }
    for (const int64_t ranks : {1, 2, 4, 8, 16}) ExpectOrder({Kind::kHalves, ranks}, rows, SavedInHalves(rows, ranks));
    std::vector<int64_t> plain(static_cast<size_t>(2 * rows));
    for (size_t i = 0; i < plain.size(); ++i) plain[i] = static_cast<int64_t>(i);
    ExpectOrder({}, rows, plain);
  }
  ExpectOrder({Kind::kHalves, 3}, 96, SavedInHalves(96, 3));
}

TEST(GateUp, WhatDoesNotDivideDoesNotFit) {
  EXPECT_FALSE(GateUpFits({Kind::kTurns, 32}, 48));
  EXPECT_FALSE(GateUpFits({Kind::kTurns, 32, 4}, 64));
  EXPECT_FALSE(GateUpFits({Kind::kHalves, 5}, 64));
  EXPECT_FALSE(GateUpFits({Kind::kTurns, 0}, 64));
}

TEST(GateUp, WordsSayWhose) {
  GateUpWish wish;
  ASSERT_TRUE(wish.Take("turns:32").ok());
  EXPECT_EQ(wish.experts, (GateUpOrder{Kind::kTurns, 32}));
  EXPECT_FALSE(wish.dense);
  ASSERT_TRUE(wish.Take("dense=halves:8").ok());
  EXPECT_EQ(wish.dense, (GateUpOrder{Kind::kHalves, 8}));
  ASSERT_TRUE(wish.Take("plain").ok());
  EXPECT_EQ(wish.dense, GateUpOrder{});
  EXPECT_EQ(wish.experts, GateUpOrder{});
  for (const char* text : {"", "turns", "turns:", "turns:0", "turns:-1", "turns:3x", "experts=", "halves", "Plain"})
    EXPECT_EQ(GateUpWish().Take(text).error().code, ErrorCode::kUsage) << text;
}

}  // namespace
}  // namespace mimo::gate_up_test
