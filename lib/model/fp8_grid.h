// Which rectangle of an FP8 weight one scale stands for, by the shape of the scales alone. Publicly seen: blocks (the
// family's releases, llm-compressor's FP8_BLOCK, compressed-tensors strategy "block"), one per output row as [rows, 1]
// or [rows] (strategy "channel": HYGON-AI/inference-cookbook-das#83), one per tensor as [] or [1] (strategy "tensor").
// So may be [1, 1], but where blocks are declared, of which it is one: of a larger weight it is what is left of a grid
// cut short.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "lib/model/inventory.h"

namespace mimo {

struct Fp8Grid {
  ScaleSpan span = ScaleSpan::kBlock;
  int64_t block_rows = 128;  // of one scale: of a row 1 and all columns, of a tensor everything
  int64_t block_cols = 128;
};

struct Fp8Shapes {
  std::vector<int64_t> codes;  // [rows, columns]
  std::vector<int64_t> scales;
  int64_t block_rows = 128;  // as the config says
  int64_t block_cols = 128;
  bool any_scale_rows = false;  // the rows of a block grid are not for this to judge: attention, whose chunks have
                                // grids of their own
  bool in_blocks = true;        // the config declares blocks
};

// nullopt when the scales fit none. Where shapes mean the same (a weight of one row, or no larger than a block) it is
// blocks.
std::optional<Fp8Grid> GridOf(const Fp8Shapes& shapes);

}  // namespace mimo
