// What one GPU thread does with one tile of a band. A thread owns 8 consecutive columns (a unit) of a tile and goes
// down its rows, so neighbouring threads load and store neighbouring 8 to 32 bytes and a column's scale is looked up
// once per tile. Whole units of ordinary values take the vector path; everything odd (misaligned, straddling a block
// edge, NaN, scales that are not small positive numbers) goes element by element through the same codecs as the CPU.
#pragma once

#include "kernels/cuda/source_tile.h"

namespace mimo::kernels::cuda {

constexpr int kUnroll = 4;     // rows whose loads are in flight together
constexpr int kTileRows = 16;  // per line of threads; a multiple of kUnroll

// ---- one element

template <Codec kTo>
MIMO_HD inline uint32_t EncodeBits(float value) {
  if constexpr (kTo == Codec::kFp32) return FloatBits(value);
  if constexpr (kTo == Codec::kFp16) return Fp16FromFloat(value);
  return Bf16FromFloat(value);
}

template <Codec kFrom, Codec kTo>
MIMO_HD inline void ConvertElement(const DeviceBand& band, uint64_t row, uint64_t col, Tally* tally) {
  constexpr int kOutBytes = kTo == Codec::kFp32 ? 4 : 2;
  const Element element = SourceElement<kFrom>(band, row, col, tally);
  uint32_t result = EncodeBits<kTo>(element.value);
  if constexpr (kFrom == kTo) result = LoadBytes(band.data + row * band.data_row_bytes + col * kOutBytes, kOutBytes);
  tally->overflows += element.may_overflow && BitsAreInfinite<kTo>(result);
  StoreBytes(band.out + row * band.out_row_bytes + col * kOutBytes, result, kOutBytes);
}

// ---- a unit of 8 elements

// Two finite FP32 -> BF16, round to nearest even; the first in the low half.
MIMO_HD inline uint32_t PackBf16(float low, float high) {
#ifdef __CUDA_ARCH__
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
#else
  return static_cast<uint32_t>(Bf16FromFloat(low)) | static_cast<uint32_t>(Bf16FromFloat(high)) << 16;
#endif
}

template <Codec kTo>
constexpr int kOutWords = kTo == Codec::kFp32 ? 8 : 4;

// Eight values that are not NaN.
template <Codec kTo>
MIMO_HD inline Words<kOutWords<kTo>> EncodeUnit(const float (&values)[kUnit]) {
  Words<kOutWords<kTo>> out;
  if constexpr (kTo == Codec::kFp32) {
    MIMO_UNROLL
    for (int i = 0; i < kUnit; ++i) out.w[i] = FloatBits(values[i]);
  } else {
    MIMO_UNROLL
    for (int i = 0; i < kUnit; i += 2) {
      if constexpr (kTo == Codec::kBf16) {
        out.w[i / 2] = PackBf16(values[i], values[i + 1]);
      } else {
        out.w[i / 2] =
            static_cast<uint32_t>(Fp16FromFloat(values[i])) | static_cast<uint32_t>(Fp16FromFloat(values[i + 1])) << 16;
      }
    }
  }
  return out;
}

// Writes the unit and returns true, or returns false: element by element then.
template <Codec kFrom, Codec kTo>
MIMO_HD inline bool ConvertUnit(const Words<kInWords<kFrom>>& in, float factor, uint8_t* out, Tally* tally) {
  if (!IsOrdinary<kFrom>(in)) return false;
  if constexpr (kFrom == kTo) {
    StoreWords(out, in);
  } else {
    float values[kUnit];
    DecodeUnit<kFrom>(in, factor, values);
    const Words<kOutWords<kTo>> words = EncodeUnit<kTo>(values);
    if constexpr (kIsPlain<kFrom> && kTo != Codec::kFp32) {
      MIMO_UNROLL
      for (int i = 0; i < kUnit; ++i)
        tally->overflows += BitsAreInfinite<kTo>(words.w[i / 2] >> (i % 2 * 16) & 0xFFFFu);
    }
    StoreWords(out, words);
  }
  return true;
}

// ---- a tile

inline uint64_t TileRows(const DeviceBand& band) {
  return static_cast<uint64_t>(kThreads / band.lanes) * kTileRows;
}
inline uint64_t TileCount(const DeviceBand& band) {
  return (band.rows + TileRows(band) - 1) / TileRows(band) * band.tiles_across;
}

// Fills lanes, tiles and alignment of a band whose pointers, strides, rows and cols (both > 0) are set.
inline void ShapeTiles(Codec from, DeviceBand* band) {
  band->codec = from;
  const uint64_t units = (band->cols + kUnit - 1) / kUnit;
  band->lanes = static_cast<uint32_t>(units < kThreads ? units : kThreads);
  band->tiles_across = (units + band->lanes - 1) / band->lanes;
  band->aligned = IsMultiple(band->data, band->data_row_bytes, LoadAlignment(from)) &&
                  IsMultiple(band->out, band->out_row_bytes, 16);
}

// `thread` of a block of kThreads.

template <Codec kFrom, Codec kTo>
MIMO_HD inline void ConvertTile(const DeviceBand& band, uint64_t tile, uint32_t thread, Tally* tally) {
  const uint32_t lanes = band.lanes;
  const uint32_t lines = kThreads / lanes;
  const uint32_t line = thread / lanes;
  const uint64_t col = (tile % band.tiles_across * lanes + thread % lanes) * kUnit;
  if (line >= lines || col >= band.cols) return;
  const uint64_t tile_row = tile / band.tiles_across * lines * kTileRows;
  const uint64_t end = tile_row + lines * kTileRows < band.rows ? tile_row + lines * kTileRows : band.rows;

  bool fast = band.aligned && col + kUnit <= band.cols;
  float factor = 1.0f;
  if constexpr (kFrom == Codec::kFp8Block) {
    const uint32_t block = BlockOf(band, band.first_col + col);
    fast = fast && block == BlockOf(band, band.first_col + col + kUnit - 1);
    fast = FastFactorFp8(BlockScale(band, block), &factor) && fast;
  }
  constexpr bool kScaleBytes = 1 < kScaleColumns<kFrom>;
  constexpr uint64_t kInBytes = kInWords<kFrom> * 4;
  constexpr uint64_t kOutBytes = kOutWords<kTo> * 4;
  // In registers: the compiler has to assume that stores change `band`.
  const uint8_t* const in = band.data + col / kUnit * kInBytes;
  uint8_t* const out = band.out + col / kUnit * kOutBytes;
  const uint64_t in_stride = band.data_row_bytes;
  const uint64_t out_stride = band.out_row_bytes;
  [[maybe_unused]] const uint8_t* const scales = band.scales + col / kScaleColumns<kFrom>;
  [[maybe_unused]] const uint64_t scale_stride = band.scale_row_bytes;
  for (uint64_t row = tile_row + line; row < end; row += static_cast<uint64_t>(lines) * kUnroll) {
    Words<kInWords<kFrom>> words[kUnroll];
    [[maybe_unused]] uint8_t bytes[kUnroll];  // of scales
    if (fast) {
      MIMO_UNROLL
      for (int i = 0; i < kUnroll; ++i) {
        const uint64_t r = row + static_cast<uint64_t>(i) * lines;
        if (r >= end) continue;
        words[i] = LoadWords<kInWords<kFrom>>(in + r * in_stride);
        if constexpr (kScaleBytes) bytes[i] = scales[r * scale_stride];
      }
    }
    MIMO_UNROLL
    for (int i = 0; i < kUnroll; ++i) {
      const uint64_t r = row + static_cast<uint64_t>(i) * lines;
      if (r >= end) continue;
      bool ordinary = fast;
      if constexpr (kScaleBytes) ordinary = fast && FastFactor<kFrom>(band, bytes[i], &factor);
      if (ordinary && ConvertUnit<kFrom, kTo>(words[i], factor, out + r * out_stride, tally)) continue;
      for (uint64_t c = col; c < col + kUnit && c < band.cols; ++c) ConvertElement<kFrom, kTo>(band, r, c, tally);
    }
  }
}

}  // namespace mimo::kernels::cuda
