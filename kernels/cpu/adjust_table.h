// What an instruction set implements of kernels/adjust.h.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/adjust.h"
#include "kernels/cpu/kernel_table.h"

namespace mimo::kernels {

// A rule as tables, made from its one definition. `lost` is 1 where a code is inexact or overflows: no rule has both.
struct CodeTable {
  std::array<uint8_t, 256> code{};
  std::array<uint8_t, 256> lost{};
};
const CodeTable& CodeTableFor(CodeRule rule);

// Tiles are squares of kTileBytes / element_bytes rows and columns; the rows of `in` have no gaps.
inline constexpr uint32_t kTileBytes = 64;

struct AdjustKernels {
  // Returns how many codes lost something.
  uint64_t (*codes)(const CodeTable& table, const uint8_t* in, uint8_t* out, size_t n);
  void (*tile1)(const uint8_t* in, uint8_t* out, uint64_t out_row_bytes);
  void (*tile2)(const uint8_t* in, uint8_t* out, uint64_t out_row_bytes);
  void (*tile4)(const uint8_t* in, uint8_t* out, uint64_t out_row_bytes);
};
const AdjustKernels& PortableAdjusters();
#ifdef MIMO_X86
const AdjustKernels& Avx2Adjusters();
#endif

}  // namespace mimo::kernels
