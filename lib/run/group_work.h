// What there is to do for a fuse group, or for a part of it.
//
// A group that holds neither cells nor encoded weights is a list of items: row bundles, large ones in pieces, and
// transposed units, in the order of what they write. The list is a pure function of the plan and of the size that items
// may have; it is the same for outputs that are skipped.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "lib/run/steps.h"

namespace mimo {

// Whether a group is a list of items.
bool IsCut(const Job& job, uint32_t group);

// What a group that is a list has in it.
struct ItemSize {
  uint64_t output_bytes = 0;
  uint64_t cost = 0;    // payload bytes read and written
  uint64_t memory = 0;  // buffer bytes of the least that a step of it holds: one row, or a transposed unit
  uint32_t file = 0;    // of the plan, where the first of it lies
};
// No item comes to more than `item_bytes` of output unless a single row or transposed unit does. Outputs that `job`
// skips count as others do.
std::vector<ItemSize> ItemsOf(const Job& job, uint32_t group, uint64_t item_bytes);

// Takes parts out of groups, without the outputs that `job` skips. Keeps the items of the groups that were asked for
// last, whose parts come one after the other. Thread-safe.
class PartLoader {
 public:
  // `job` outlives it; its modes may change between calls, while nobody is in one. `item_bytes` as for ItemsOf.
  PartLoader(const Job& job, uint64_t item_bytes);
  ~PartLoader();
  PartLoader(const PartLoader&) = delete;
  PartLoader& operator=(const PartLoader&) = delete;

  // A whole group comes in the order of its sources, a part in that of its outputs.
  GroupWork Load(const UnitPart& part);

 private:
  struct Known;
  const Job& job_;
  const uint64_t item_bytes_;
  std::unique_ptr<Known> known_;
};

}  // namespace mimo
