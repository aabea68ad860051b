// Whether chunks tile a tensor exactly once.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lib/io/torch/dcp_metadata.h"

namespace mimo {

// Elements of a shape; nullopt when a dimension is negative or the product overflows.
std::optional<int64_t> ElementsOf(std::span<const int64_t> shape);

// Why `chunks`, each with elements, do not tile `shape`; empty when they do. Exact. Tilings that arise by cutting boxes
// in two, again and again (all that trainers make), take n log n steps per level of cuts; of others at most a few
// thousand chunks are compared pairwise, and what is beyond that counts as no tiling.
std::string WhyNotTiled(std::span<const int64_t> shape, std::span<const DcpChunk> chunks);

}  // namespace mimo
