// Block FP8 -> NVFP4 or MXFP4 under a rule of the maximum, four codes at a time. Under one block scale a value is its
// code, larger codes are larger values, and the largest code of a group decides its scale. So for each largest code
// there are seven codes at which the nibble steps up: a table per block, made once for a tile and kept in shared
// memory. Its steps come from the definitions; a group it does not cover goes by them.
#pragma once

#include "kernels/cuda/encode_tile.h"

namespace mimo::kernels::cuda {

constexpr uint64_t kTableCols = 512;  // of a tile
constexpr uint64_t kTableRows = 128;
constexpr uint32_t kTables = 4;  // blocks that a tile has tables for
constexpr uint32_t kTableEntries = 128;
constexpr uint8_t kNoStep = 0x80;     // above every code
constexpr uint32_t kNoEntry = 0xFFu;  // as the first step: by definition

// x: the scale byte, steps 1 to 3 from the low byte on; y: steps 4 to 7. Nibble > k just when code >= step k + 1.
struct NibbleTables {
  Pair entries[kTables * kTableEntries];
};

MIMO_HD inline float EncodedFp8(uint32_t code, float scale, bool via_bf16) {  // of a magnitude that is not NaN
  return EncodedValue(FloatFromBits(code << 20) * (scale * 0x1p120f), via_bf16);
}

// The least code whose value is above `bound`, positive. BF16 moves a value by far less than the next code is away, so
// the code below bound / scale or one of the next two it is.
MIMO_HD inline uint32_t StepAt(float bound, float scale, float inverse, bool via_bf16) {
  const float code_value = bound * inverse;
  if (!(code_value < 512.0f)) return kNoStep;
  uint32_t step = FloatBits(code_value * 0x1p-120f) >> 20;
  if (step < kE4m3Nan && EncodedFp8(step, scale, via_bf16) > bound) return step;
  ++step;
  if (step < kE4m3Nan && EncodedFp8(step, scale, via_bf16) > bound) return step;
  return step < kE4m3Nan ? step + 1 : kNoStep;
}

template <GroupTarget kTo>
MIMO_HD inline Pair NibbleEntry(const EncodeParams& params, float scale, uint32_t largest) {
  const Pair none = {kNoEntry << 8, 0};
  if (!(scale >= 0x1p-90f && scale < 128.0f) || largest >= kE4m3Nan) return none;
  const bool via_bf16 = params.encoding.via_bf16;
  const float amax = EncodedFp8(largest, scale, via_bf16);
  uint8_t byte;
  float m;
  if constexpr (kTo == GroupTarget::kMxfp4) {
    byte = MxGroupScale(params.encoding.rule, amax, MxElement::kE2m1);
    m = E8m0ToFloat(byte);
  } else {
    byte = Nvfp4MaxScale(amax, params.global.multiplier);
    m = Nvfp4Multiplier(byte, params.global.multiplier, false);
  }
  if (largest == 0) return {byte | 0x80808000u, 0x80808080u};
  if (!(m >= kBoundsLeast && m <= 0x1p20f)) return none;  // no quotient underflows: the sign of x stays
  const E2m1Bounds bounds =
      kTo == GroupTarget::kMxfp4 ? PowerBounds(m, params.encoding.ties == Ties::kTowardZero) : QuotientBounds(m);
  const float inverse = 1.0f / scale;
  uint32_t steps[8] = {byte};
  MIMO_UNROLL
  for (int k = 0; k < 7; ++k) steps[k + 1] = StepAt(bounds.above[k], scale, inverse, via_bf16);
  return {steps[0] | steps[1] << 8 | steps[2] << 16 | steps[3] << 24,
          steps[4] | steps[5] << 8 | steps[6] << 16 | steps[7] << 24};
}

inline uint64_t ShapeTableTiles(DeviceRun* run) {
  run->from.tiles_across = (run->from.cols + kTableCols - 1) / kTableCols;
  return (run->from.rows + kTableRows - 1) / kTableRows * run->from.tiles_across;
}

// `thread`'s share of the tables of a tile; all of them before EncodeTableTile.
template <GroupTarget kTo>
MIMO_HD inline void FillTables(const DeviceRun& run, const EncodeParams& params, uint64_t tile, uint32_t thread,
                               NibbleTables* tables) {
  const uint64_t first_col = tile % run.from.tiles_across * kTableCols;
  const uint64_t stop = first_col + kTableCols;
  const uint64_t end = stop < run.from.cols ? stop : run.from.cols;
  const uint32_t first = BlockOf(run.from, first_col);
  const uint32_t last = BlockOf(run.from, end - 1);
  for (uint32_t i = thread; i < kTables * kTableEntries; i += kThreads) {
    const uint32_t block = first + i / kTableEntries;
    if (block <= last) tables->entries[i] = NibbleEntry<kTo>(params, BlockScale(run.from, block), i % kTableEntries);
  }
}

// ---- groups

// The larger of each half.
MIMO_HD inline uint32_t MaxHalves(uint32_t a, uint32_t b) {
#ifdef __CUDA_ARCH__
  return __vmaxu2(a, b);
#else
  const uint32_t low = (a & 0xFFFFu) > (b & 0xFFFFu) ? a : b;
  const uint32_t high = (a >> 16) > (b >> 16) ? a : b;
  return (low & 0xFFFFu) | (high & 0xFFFF0000u);
#endif
}

template <int kWords>
MIMO_HD inline uint32_t LargestCode(const Words<kWords>& in) {
  uint32_t even = 0, odd = 0;
  MIMO_UNROLL
  for (int i = 0; i < kWords; ++i) {
    even = MaxHalves(even, in.w[i] & 0x007F007Fu);
    odd = MaxHalves(odd, in.w[i] & 0x7F007F00u);
  }
  const uint32_t both = MaxHalves(even, odd >> 8);
  return (both & 0xFFFFu) > both >> 16 ? both & 0xFFFFu : both >> 16;
}

// Four codes to four nibbles, in bytes 0 and 2.
MIMO_HD inline uint32_t NibblesOf(uint32_t codes, const uint32_t (&steps)[7]) {
  const uint32_t high = codes | 0x80808080u;
  uint32_t at[7];  // bit 7 of each byte: code >= step
  MIMO_UNROLL
  for (int k = 0; k < 7; ++k) at[k] = high - steps[k];
  // Steps ascend, so the bits set are the first ones: their number in binary.
  const uint32_t one = at[0] ^ at[1] ^ at[2] ^ at[3] ^ at[4] ^ at[5] ^ at[6];
  const uint32_t two = at[1] ^ at[3] ^ at[5];
  const uint32_t four = at[3];
  const uint32_t sign = ((codes & 0x7F7F7F7Fu) + 0x7F7F7F7Fu) & codes;  // of what is not zero
  const uint32_t nibbles =
      (sign & 0x80808080u) | (four >> 1 & 0x40404040u) | (two >> 2 & 0x20202020u) | (one >> 3 & 0x10101010u);
  return (nibbles >> 8 & 0x00F000F0u) | (nibbles >> 4 & 0x000F000Fu);
}

// Bytes 0 and 2 of each.
MIMO_HD inline uint32_t JoinNibbles(uint32_t first, uint32_t second) {
#ifdef __CUDA_ARCH__
  return __byte_perm(first, second, 0x6420);
#else
  return (first & 0xFFu) | (first >> 8 & 0xFF00u) | (second & 0xFFu) << 16 | (second & 0xFF0000u) << 8;
#endif
}

template <GroupTarget kTo>
MIMO_HD inline bool EncodeByTable(const Words<kGroup<kTo> / 4>& in, const Pair* table, uint8_t* codes, uint8_t* scale) {
  constexpr int kWords = kGroup<kTo> / 4;
  const Pair entry = table[LargestCode(in)];
  if ((entry.x >> 8 & 0xFF) == kNoEntry) return false;
  uint32_t steps[7];
  MIMO_UNROLL
  for (int k = 0; k < 7; ++k)
    steps[k] = ((k < 3 ? entry.x >> (8 * k + 8) : entry.y >> (8 * k - 24)) & 0xFF) * 0x01010101u;
  Words<kWords / 2> out;
  MIMO_UNROLL
  for (int i = 0; i < kWords; i += 2) {
    out.w[i / 2] = JoinNibbles(NibblesOf(in.w[i], steps), NibblesOf(in.w[i + 1], steps));
  }
  StoreWords(codes, out);
  *scale = static_cast<uint8_t>(entry.x);
  return true;
}

template <GroupTarget kTo>
MIMO_HD inline void EncodeTableTile(const DeviceRun& run, const EncodeParams& params, uint64_t tile, uint32_t thread,
                                    const NibbleTables& tables, Tally* tally) {
  constexpr uint32_t kSize = kGroup<kTo>;
  constexpr uint32_t kLanes = kTableCols / kSize;
  constexpr uint32_t kLines = kThreads / kLanes;
  constexpr int kAhead = 4;  // rows whose loads are in flight together
  const uint64_t first_col = tile % run.from.tiles_across * kTableCols;
  const uint64_t col = first_col + thread % kLanes * kSize;
  if (col >= run.from.cols) return;
  const uint64_t first_row = tile / run.from.tiles_across * kTableRows;
  const uint64_t end = first_row + kTableRows < run.from.rows ? first_row + kTableRows : run.from.rows;
  const uint32_t block = BlockOf(run.from, col);
  const uint32_t index = block - BlockOf(run.from, first_col);
  const bool keeps = kTo == GroupTarget::kMxfp4 && run.keep != nullptr;  // the code alone does not decide the scale
  const bool covered = !keeps && run.from.aligned && index < kTables && block == BlockOf(run.from, col + kSize - 1);
  const Pair* const table = tables.entries + (covered ? index : 0) * kTableEntries;
  // In registers: the compiler has to assume that stores change `run`.
  const uint8_t* const in = run.from.data + col;
  const uint64_t in_stride = run.from.data_row_bytes;
  uint8_t* const codes = run.codes + col / 2;
  const uint64_t code_stride = run.code_row_bytes;
  uint8_t* const scales = run.scales + col / kSize;
  const uint64_t scale_stride = run.scale_row_bytes;
  for (uint64_t row = first_row + thread / kLanes; row < end; row += kLines * kAhead) {
    Words<kSize / 4> words[kAhead];
    if (covered) {
      MIMO_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        const uint64_t r = row + static_cast<uint64_t>(i) * kLines;
        if (r < end) words[i] = LoadWords<kSize / 4>(in + r * in_stride);
      }
    }
    uint32_t rare = 0;  // rows for the definition: called from one place, which costs fewer registers
    MIMO_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      const uint64_t r = row + static_cast<uint64_t>(i) * kLines;
      if (r >= end) continue;
      const bool done =
          covered && EncodeByTable<kTo>(words[i], table, codes + r * code_stride, scales + r * scale_stride);
      rare |= (done ? 0u : 1u) << i;
    }
    MIMO_LOOP
    for (uint64_t r = row; rare != 0; r += kLines, rare >>= 1) {
      if ((rare & 1) != 0) EncodeGroupByDefinition<kTo>(run, params, r, col, tally);
    }
  }
}

}  // namespace mimo::kernels::cuda
