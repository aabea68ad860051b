// Pairs of tensors cut into units along the logical tensor, and worked on by several threads in bounded memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "lib/base/progress.h"
#include "lib/run/memory_budget.h"
#include "lib/verify/compare/unit.h"
#include "lib/verify/logical/logical.h"

namespace mimo {

struct TensorPair {
  const LogicalTensor* a = nullptr;
  const LogicalTensor* b = nullptr;
};

// Rows of one pair. Where it is cut depends on the two plans alone.
struct CompareUnit {
  uint32_t pair = 0;
  int64_t row = 0;
  int64_t rows = 0;
};

// The units of one pair, number `number`, in the order of rows; tensors that are turned over in either are one.
std::vector<CompareUnit> UnitsOf(const TensorPair& pair, uint32_t number);
// The pairs by where they begin in the files of A.
std::vector<uint32_t> PairsInOrder(const LogicalCheckpoint& a, const std::vector<TensorPair>& pairs);

struct UnitRunOptions {
  int threads = 0;
  uint64_t memory_bytes = 0;
  ProgressObserver* progress = nullptr;
};

// Compares units in the order given; results are by place in `units`. Both sides' rows are in memory at
// once, taken together. kUsage: the memory is too small for a unit; kIo.
class UnitRunner {
 public:
  UnitRunner(const LogicalCheckpoint& a, const LogicalCheckpoint& b, const std::vector<TensorPair>& pairs,
             const UnitRunOptions& options);
  // `measure`: figures whatever is equal.
  Status Run(const std::vector<CompareUnit>& units, bool measure, std::vector<UnitResult>* results);
  uint64_t bytes_read() const { return bytes_read_; }

 private:
  Status RunOne(const CompareUnit& unit, const UnitComparer& comparer, bool measure, UnitResult* result);

  const LogicalCheckpoint& a_;
  const LogicalCheckpoint& b_;
  const std::vector<TensorPair>& pairs_;
  const UnitRunOptions options_;
  const uint64_t memory_bytes_;
  MemoryBudget budget_;
  std::vector<UnitComparer> comparers_;  // by pair
  std::atomic<uint64_t> bytes_read_ = 0;
};

}  // namespace mimo
