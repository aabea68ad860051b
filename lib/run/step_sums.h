// What steps count and what they make piece by piece, until the file group that it belongs to is made. Sums are taken
// in the order of cells and rows, whatever the order in which steps come.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "lib/plan/plan.h"
#include "lib/results/manifest.h"
#include "lib/run/step_result.h"

namespace mimo {

// Not thread-safe.
class StepSums {
 public:
  // Per output of global or input scales: all of its elements.
  using Scalars = std::map<uint32_t, std::vector<float>>;

  // `plan` outlives it.
  explicit StepSums(const Plan& plan) : plan_(plan), cells_(plan.groups.size()) {}

  void Add(const StepResult& result, RunResults* results);
  // Every step of the file group has been added.
  void Fold(uint32_t file_group, RunResults* results);
  Scalars TakeScalars(uint32_t file_group);

 private:
  uint32_t FileGroupOf(uint32_t output) const { return plan_.files[plan_.outputs[output].file].file_group; }

  const Plan& plan_;
  std::vector<std::vector<BlockCounts>> cells_;                       // per fuse group
  std::map<uint32_t, std::map<int64_t, kernels::ErrorSums>> errors_;  // per output of codes, by row
  Scalars scalars_;
};

}  // namespace mimo
