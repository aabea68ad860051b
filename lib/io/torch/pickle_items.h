// Where the items of pickle nodes lie, while a pickle is read.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "lib/io/torch/pickle_reader.h"

namespace mimo {

// Room for `count` more items of a node. One that grows again and again moves to twice the room, so that all together
// stay linear in the pickle.
inline void GrowItems(PickleNode* node, uint32_t count, std::vector<PickleId>* items) {
  if (node->count + count <= node->capacity) return;
  const bool again = node->count > 0;
  const uint32_t capacity = again ? 2 * (node->count + count) : count;
  const size_t first = items->size();
  items->resize(first + capacity);
  std::copy_n(items->begin() + node->first, node->count, items->begin() + static_cast<ptrdiff_t>(first));
  node->first = static_cast<uint32_t>(first);
  node->capacity = capacity;
}

}  // namespace mimo
