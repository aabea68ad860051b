// Codes through tables and matrices through tiles: what all instruction sets share, and the portable ones.
#include "kernels/adjust.h"

#include <algorithm>
#include <cstring>

#include "kernels/codec/e4m3_adjust.h"
#include "kernels/cpu/adjust_table.h"

namespace mimo::kernels {
namespace {

AdjustedCode Adjusted(CodeRule rule, uint8_t code) {
  switch (rule) {
    case CodeRule::kHalve:
      return HalveCode(code);
    case CodeRule::kDouble:
      return DoubleCode(code);
    case CodeRule::kNeuron:
      break;
  }
  return NeuronCode(code);
}

CodeTable MakeTable(CodeRule rule) {
  CodeTable table;
  for (unsigned code = 0; code < 256; ++code) {
    const AdjustedCode adjusted = Adjusted(rule, static_cast<uint8_t>(code));
    table.code[code] = adjusted.code;
    table.lost[code] = adjusted.inexact || adjusted.overflow ? 1 : 0;
  }
  return table;
}

uint64_t LookUp(const CodeTable& table, const uint8_t* in, uint8_t* out, size_t n) {
  uint64_t lost = 0;
  for (size_t i = 0; i < n; ++i) {
    const uint8_t code = in[i];
    lost += table.lost[code];
    out[i] = table.code[code];
  }
  return lost;
}

constexpr uint64_t kSquareTiles = 4;

template <size_t kElement>
void Tile(const uint8_t* in, uint8_t* out, uint64_t out_row_bytes) {
  constexpr size_t kSide = kTileBytes / kElement;
  for (size_t row = 0; row < kSide; ++row) {
    for (size_t col = 0; col < kSide; ++col)
      std::memcpy(out + row * out_row_bytes + col * kElement, in + col * kTileBytes + row * kElement, kElement);
  }
}

const AdjustKernels& AdjustersFor(Isa isa) {
#ifdef MIMO_X86
  if (isa != Isa::kPortable && IsaAvailable(Isa::kAvx2)) return Avx2Adjusters();
#endif
  (void)isa;
  return PortableAdjusters();
}

}  // namespace

const CodeTable& CodeTableFor(CodeRule rule) {
  static const CodeTable tables[] = {MakeTable(CodeRule::kHalve), MakeTable(CodeRule::kDouble),
                                     MakeTable(CodeRule::kNeuron)};
  return tables[static_cast<size_t>(rule)];
}

const AdjustKernels& PortableAdjusters() {
  static constexpr AdjustKernels kernels = {.codes = LookUp, .tile1 = Tile<1>, .tile2 = Tile<2>, .tile4 = Tile<4>};
  return kernels;
}

CodeCounts& CodeCounts::operator+=(const CodeCounts& other) {
  inexact += other.inexact;
  overflow += other.overflow;
  return *this;
}

CodeCounts AdjustCodes(CodeRule rule, const uint8_t* in, uint8_t* out, size_t n, Isa isa) {
  const uint64_t lost = AdjustersFor(isa).codes(CodeTableFor(rule), in, out, n);
  return rule == CodeRule::kDouble ? CodeCounts{0, lost} : CodeCounts{lost, 0};
}

// Through buffers that stay in the cache: strides are powers of two, whose rows would evict each other there. A square
// of tiles at a time, so that the cache lines of both sides are gone through whole.
void Transpose(const uint8_t* in, uint64_t in_row_bytes, uint64_t rows, uint64_t cols, uint32_t element_bytes,
               uint8_t* out, uint64_t out_row_bytes, Isa isa) {
  constexpr uint64_t kBytes = kSquareTiles * kTileBytes;
  const AdjustKernels& kernels = AdjustersFor(isa);
  const auto tile = element_bytes == 1 ? kernels.tile1 : element_bytes == 2 ? kernels.tile2 : kernels.tile4;
  const uint64_t side = kTileBytes / element_bytes, square = kSquareTiles * side;
  alignas(64) uint8_t from[kTileBytes * kTileBytes] = {};
  alignas(64) uint8_t turned[kBytes * kBytes];  // rows of the output, kBytes each
  for (uint64_t left = 0; left < cols; left += square) {
    const uint64_t width = std::min(square, cols - left);
    for (uint64_t top = 0; top < rows; top += square) {
      const uint64_t height = std::min(square, rows - top);
      for (uint64_t row = 0; row < height; row += side) {
        const uint64_t tile_rows = std::min(side, height - row);
        for (uint64_t col = 0; col < width; col += side) {
          const uint64_t tile_bytes = std::min(side, width - col) * element_bytes;
          const uint8_t* source = in + (top + row) * in_row_bytes + (left + col) * element_bytes;
          if (tile_bytes == kTileBytes) {
            for (uint64_t i = 0; i < tile_rows; ++i)
              std::memcpy(from + i * kTileBytes, source + i * in_row_bytes, kTileBytes);
          } else {
            for (uint64_t i = 0; i < tile_rows; ++i)
              std::memcpy(from + i * kTileBytes, source + i * in_row_bytes, tile_bytes);
          }
          tile(from, turned + col * kBytes + row * element_bytes, kBytes);
        }
      }
      uint8_t* target = out + left * out_row_bytes + top * element_bytes;
      for (uint64_t i = 0; i < width; ++i)
        std::memcpy(target + i * out_row_bytes, turned + i * kBytes, height * element_bytes);
    }
  }
}

}  // namespace mimo::kernels
