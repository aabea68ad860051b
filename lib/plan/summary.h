// What a plan comes to, for --dry-run and for people.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/plan/plan.h"

namespace mimo {

struct LayerSummary {  // one per group with cells, in group order
  std::string label;
  uint64_t blocks = 0;             // scale elements in all
  uint64_t straddling_blocks = 0;  // blocks that are re-quantized (unless their scales turn out equal)
};

struct PlanSummary {
  // Tensors; those that hold padding are counted a second time.
  uint64_t outputs = 0, moved = 0, converted = 0, relaid = 0, encoded = 0, transposed = 0, constants = 0, dropped = 0;
  uint64_t padded = 0;
  uint64_t files = 0, files_unchanged = 0;
  uint64_t bytes_read = 0;                   // payload that will be read (without linking)
  uint64_t bytes_written = 0;                // file bytes
  uint64_t bytes_unchanged = 0;              // file bytes that --link saves
  uint64_t largest_group_bytes = 0;          // source and output bytes of the largest fuse group
  std::vector<uint64_t> shared_group_bytes;  // source and output bytes of each group that shares a global scale: when
                                             // they exceed the memory of a run, its sources are read twice
  std::vector<LayerSummary> relayouts;
};

PlanSummary Summarize(const Catalogue& catalogue, const Plan& plan);

}  // namespace mimo
