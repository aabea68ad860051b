// The device side: a persistent grid walks the tiles of many bands. A thread owns 8 consecutive columns (a unit) of a tile and goes
// down its rows, so neighbouring threads load and store neighbouring 8 to 32 bytes and a column's scale is looked up once per tile.
// Whole units of ordinary values take the vector path; everything odd (misaligned, straddling a block edge, NaN, scales that are not
// small positive numbers) goes element by element through the same codecs as the CPU.
#pragma once

#include <cuda_runtime.h>

#include "kernels/codec/bf16.h"
#include "kernels/codec/block_scale.h"
#include "kernels/codec/fp16.h"
#include "kernels/convert.h"

namespace mimo::kernels::cuda {

constexpr int kThreads = 256;
constexpr int kUnit = 8;       // elements
constexpr int kUnroll = 4;     // rows whose loads are in flight together
constexpr int kTileRows = 16;  // per line of threads; a multiple of kUnroll

// A band, or a rectangle of one, with device pointers.
struct DeviceBand {
  const uint8_t* data;
  uint64_t data_row_bytes;
  const uint8_t* scales;  // kFp8Block: of blocks first_block .. ; kMxfp4: of the first row
  uint64_t scale_row_bytes;
  uint8_t* out;
  uint64_t out_row_bytes;
  uint64_t rows;
  uint64_t cols;
  uint64_t first_col;     // column of the band where this rectangle begins
  const uint32_t* edges;  // of blocks first_block .. first_block + blocks, in band columns; or null: uniform
  uint32_t first_block;
  uint32_t blocks;
  uint32_t block_width;
  uint32_t lanes;         // threads across a tile
  uint64_t tiles_across;
  uint64_t first_tile;    // in its launch
  bool judge_scales;      // holds the band's first row
  bool aligned;           // bases and strides allow vector loads and stores
};

struct Tally {
  uint32_t nan_codes = 0, infinities = 0, zero_scale_codes = 0, bad_scales = 0, overflows = 0;
};
constexpr int kCounters = 5;  // in the order of Anomalies

template <Codec kCodec>
constexpr bool kIsPlain = kCodec != Codec::kFp8Block && kCodec != Codec::kMxfp4;

// ---- bytes of any alignment ---------------------------------------------------------------------------------------------

__device__ inline uint32_t LoadBytes(const uint8_t* p, int count) {
  uint32_t value = 0;
  for (int i = 0; i < count; ++i) value |= static_cast<uint32_t>(p[i]) << (8 * i);
  return value;
}

__device__ inline void StoreBytes(uint8_t* p, uint32_t value, int count) {
  for (int i = 0; i < count; ++i) p[i] = static_cast<uint8_t>(value >> (8 * i));
}

// ---- one element --------------------------------------------------------------------------------------------------------

template <Codec kTo>
__device__ inline uint32_t EncodeBits(float value) {
  if constexpr (kTo == Codec::kFp32) return FloatBits(value);
  if constexpr (kTo == Codec::kFp16) return Fp16FromFloat(value);
  return Bf16FromFloat(value);
}

template <Codec kCodec>
__device__ inline bool BitsAreInfinite(uint32_t bits) {
  if constexpr (kCodec == Codec::kFp32) return (bits & 0x7FFFFFFFu) == kFp32Inf;
  return (bits & 0x7FFFu) == (kCodec == Codec::kFp16 ? kFp16Inf : kBf16Inf);
}

template <Codec kCodec>
__device__ inline bool BitsAreNan(uint32_t bits) {
  if constexpr (kCodec == Codec::kFp32) return (bits & 0x7FFFFFFFu) > kFp32Inf;
  return (bits & 0x7FFFu) > (kCodec == Codec::kFp16 ? kFp16Inf : kBf16Inf);
}

template <Codec kFrom>
__device__ inline float DecodeBits(uint32_t bits) {
  if constexpr (kFrom == Codec::kFp32) return FloatFromBits(bits);
  if constexpr (kFrom == Codec::kFp16) return Fp16ToFloat(static_cast<uint16_t>(bits));
  return Bf16ToFloat(static_cast<uint16_t>(bits));
}

// The block (counted from first_block) of a column of the band.
__device__ inline uint32_t BlockOf(const DeviceBand& band, uint64_t band_col) {
  if (band.edges == nullptr) return static_cast<uint32_t>(band_col / band.block_width) - band.first_block;
  uint32_t low = 0, high = band.blocks;  // the last block that begins at or before the column; empty blocks are passed over
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    if (band.edges[middle] <= band_col) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

__device__ inline uint64_t BlockStart(const DeviceBand& band, uint32_t block) {
  if (band.edges != nullptr) return band.edges[block];
  return static_cast<uint64_t>(block + band.first_block) * band.block_width;
}

template <Codec kFrom, Codec kTo>
__device__ void ConvertElement(const DeviceBand& band, uint64_t row, uint64_t col, Tally* tally) {
  const uint8_t* in = band.data + row * band.data_row_bytes;
  uint8_t* out = band.out + row * band.out_row_bytes;
  constexpr int kOutBytes = kTo == Codec::kFp32 ? 4 : 2;
  uint32_t result;
  if constexpr (kFrom == Codec::kFp8Block) {
    const uint32_t block = BlockOf(band, band.first_col + col);
    const float scale = FloatFromBits(LoadBytes(band.scales + 4 * static_cast<uint64_t>(block), 4));
    if (band.judge_scales && row == 0 && BlockStart(band, block) == band.first_col + col) tally->bad_scales += Fp8ScaleIsBad(scale);
    const uint8_t code = in[col];
    result = EncodeBits<kTo>(Fp8Value(code, scale));
    tally->nan_codes += E4m3IsNan(code);
    tally->zero_scale_codes += scale == 0 && (code & 0x7F) != 0;
    tally->overflows += BitsAreInfinite<kTo>(result) && IsFinite(scale);
  } else if constexpr (kFrom == Codec::kMxfp4) {
    const uint8_t byte = band.scales[row * band.scale_row_bytes + col / kMxfp4Group];
    const uint8_t nibble = static_cast<uint8_t>(in[col / 2] >> (col % 2 * 4) & 15);
    result = EncodeBits<kTo>(Mxfp4Value(nibble, byte));
    tally->nan_codes += byte == kE8m0Nan;
    tally->overflows += BitsAreInfinite<kTo>(result);
  } else {
    constexpr int kInBytes = kFrom == Codec::kFp32 ? 4 : 2;
    const uint32_t bits = LoadBytes(in + col * kInBytes, kInBytes);
    const bool infinite = BitsAreInfinite<kFrom>(bits);
    tally->nan_codes += BitsAreNan<kFrom>(bits);
    tally->infinities += infinite;
    result = kFrom == kTo ? bits : EncodeBits<kTo>(CanonicalNan(DecodeBits<kFrom>(bits)));
    tally->overflows += !infinite && BitsAreInfinite<kTo>(result);
  }
  StoreBytes(out + col * kOutBytes, result, kOutBytes);
}

// ---- a unit of 8 elements -----------------------------------------------------------------------------------------------

template <int kWords>
struct Words {
  uint32_t w[kWords];
};

template <int kWords>
__device__ inline Words<kWords> LoadWords(const uint8_t* p) {  // p is aligned to the smaller of the size and 16 bytes
  Words<kWords> words;
  if constexpr (kWords == 1) {
    words.w[0] = *reinterpret_cast<const uint32_t*>(p);
  } else if constexpr (kWords == 2) {
    const uint2 v = *reinterpret_cast<const uint2*>(p);
    words.w[0] = v.x;
    words.w[1] = v.y;
  } else {
#pragma unroll
    for (int i = 0; i < kWords; i += 4) {
      const uint4 v = reinterpret_cast<const uint4*>(p)[i / 4];
      words.w[i] = v.x;
      words.w[i + 1] = v.y;
      words.w[i + 2] = v.z;
      words.w[i + 3] = v.w;
    }
  }
  return words;
}

template <int kWords>
__device__ inline void StoreWords(uint8_t* p, const Words<kWords>& words) {
#pragma unroll
  for (int i = 0; i < kWords; i += 4) {
    reinterpret_cast<uint4*>(p)[i / 4] = make_uint4(words.w[i], words.w[i + 1], words.w[i + 2], words.w[i + 3]);
  }
}

// Two finite FP32 -> BF16, round to nearest even; the first in the low half.
__device__ inline uint32_t PackBf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

template <Codec kTo>
constexpr int kOutWords = kTo == Codec::kFp32 ? 8 : 4;
template <Codec kFrom>
constexpr int kInWords = kFrom == Codec::kFp32 ? 8 : kFrom == Codec::kFp8Block ? 2 : kFrom == Codec::kMxfp4 ? 1 : 4;

// Eight values that are not NaN.
template <Codec kTo>
__device__ inline Words<kOutWords<kTo>> EncodeUnit(const float (&values)[kUnit]) {
  Words<kOutWords<kTo>> out;
  if constexpr (kTo == Codec::kFp32) {
#pragma unroll
    for (int i = 0; i < kUnit; ++i) out.w[i] = FloatBits(values[i]);
  } else {
#pragma unroll
    for (int i = 0; i < kUnit; i += 2) {
      if constexpr (kTo == Codec::kBf16) {
        out.w[i / 2] = PackBf16(values[i], values[i + 1]);
      } else {
        out.w[i / 2] = static_cast<uint32_t>(Fp16FromFloat(values[i])) | static_cast<uint32_t>(Fp16FromFloat(values[i + 1])) << 16;
      }
    }
  }
  return out;
}

// Whether a plain unit holds NaN or infinity.
template <Codec kFrom>
__device__ inline bool HasSpecial(const Words<kInWords<kFrom>>& in) {
  uint32_t found = 0;
#pragma unroll
  for (int i = 0; i < kInWords<kFrom>; ++i) {
    if constexpr (kFrom == Codec::kFp32) {
      found |= (in.w[i] & 0x7FFFFFFFu) + (0x80000000u - kFp32Inf);
    } else {
      constexpr uint32_t kToSign = 0x8000u - (kFrom == Codec::kFp16 ? kFp16Inf : kBf16Inf);
      found |= (in.w[i] & 0x7FFF7FFFu) + (kToSign | kToSign << 16);
    }
  }
  return (found & (kFrom == Codec::kFp32 ? 0x80000000u : 0x80008000u)) != 0;
}

// Writes the unit and returns true, or returns false: element by element then. `factor`: see FastFactor.
template <Codec kFrom, Codec kTo>
__device__ inline bool ConvertUnit(const Words<kInWords<kFrom>>& in, float factor, uint8_t* out, Tally* tally) {
  float values[kUnit];
  if constexpr (kFrom == Codec::kFp8Block) {
    uint32_t nan = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) nan |= (in.w[i] & 0x7F7F7F7Fu) + 0x01010101u;
    if ((nan & 0x80808080u) != 0) return false;
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {  // the code's bits where FP32 has them: value * 2^-120, subnormals included
      const int32_t top = static_cast<int32_t>(in.w[i / 4] << (24 - i % 4 * 8));
      values[i] = FloatFromBits(static_cast<uint32_t>(top >> 4) & 0x87F00000u) * factor;
    }
  } else if constexpr (kFrom == Codec::kMxfp4) {
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {  // likewise: value * 2^-126
      const int32_t top = static_cast<int32_t>(in.w[0] << (28 - i * 4));
      values[i] = FloatFromBits(static_cast<uint32_t>(top >> 6) & 0x81C00000u) * factor;
    }
  } else {
    if (HasSpecial<kFrom>(in)) return false;
    if constexpr (kFrom == kTo) {
      StoreWords(out, in);
      return true;
    }
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      if constexpr (kFrom == Codec::kFp32) {
        values[i] = FloatFromBits(in.w[i]);
      } else {
        values[i] = DecodeBits<kFrom>(in.w[i / 2] >> (i % 2 * 16) & 0xFFFFu);
      }
    }
  }
  const Words<kOutWords<kTo>> words = EncodeUnit<kTo>(values);
  if constexpr (kIsPlain<kFrom> && kTo != Codec::kFp32 && kFrom != kTo) {
#pragma unroll
    for (int i = 0; i < kUnit; ++i) tally->overflows += BitsAreInfinite<kTo>(words.w[i / 2] >> (i % 2 * 16) & 0xFFFFu);
  }
  StoreWords(out, words);
  return true;
}

// The multiplier that also undoes the bit placement of ConvertUnit: exact, so value * scale is still rounded once. False when the
// scale is not ordinary: then the product could leave the exact range, overflow the target, or has to be counted.
__device__ inline bool FastFactorFp8(float scale, float* factor) {
  *factor = scale * 0x1p120f;
  return scale > 0 && scale < 128.0f;
}
__device__ inline bool FastFactorMxfp4(uint8_t byte, float* factor) {  // 2^(byte - 127) * 2^126
  *factor = FloatFromBits((static_cast<uint32_t>(byte) + 126u) << 23);
  return byte <= 128;
}

// ---- the kernel ---------------------------------------------------------------------------------------------------------

template <Codec kFrom, Codec kTo>
__device__ void ConvertTile(const DeviceBand& band, uint64_t tile, Tally* tally) {
  const uint32_t lanes = band.lanes;
  const uint32_t lines = kThreads / lanes;
  const uint32_t line = threadIdx.x / lanes;
  const uint64_t col = (tile % band.tiles_across * lanes + threadIdx.x % lanes) * kUnit;
  if (line >= lines || col >= band.cols) return;
  const uint64_t tile_row = tile / band.tiles_across * lines * kTileRows;
  const uint64_t end = tile_row + lines * kTileRows < band.rows ? tile_row + lines * kTileRows : band.rows;

  bool fast = band.aligned && col + kUnit <= band.cols;
  float factor = 1.0f;
  if constexpr (kFrom == Codec::kFp8Block) {
    const uint32_t block = BlockOf(band, band.first_col + col);
    fast = fast && block == BlockOf(band, band.first_col + col + kUnit - 1);
    fast = FastFactorFp8(FloatFromBits(LoadBytes(band.scales + 4 * static_cast<uint64_t>(block), 4)), &factor) && fast;
  }
  constexpr uint64_t kInBytes = kInWords<kFrom> * 4;
  constexpr uint64_t kOutBytes = kOutWords<kTo> * 4;
  const uint8_t* in = band.data + col / kUnit * kInBytes;
  uint8_t* out = band.out + col / kUnit * kOutBytes;
  for (uint64_t row = tile_row + line; row < end; row += static_cast<uint64_t>(lines) * kUnroll) {
    Words<kInWords<kFrom>> words[kUnroll];
    [[maybe_unused]] uint8_t bytes[kUnroll];  // E8M0
    if (fast) {
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        const uint64_t r = row + static_cast<uint64_t>(i) * lines;
        if (r >= end) continue;
        words[i] = LoadWords<kInWords<kFrom>>(in + r * band.data_row_bytes);
        if constexpr (kFrom == Codec::kMxfp4) bytes[i] = band.scales[r * band.scale_row_bytes + col / kMxfp4Group];
      }
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const uint64_t r = row + static_cast<uint64_t>(i) * lines;
      if (r >= end) continue;
      bool ordinary = fast;
      if constexpr (kFrom == Codec::kMxfp4) ordinary = fast && FastFactorMxfp4(bytes[i], &factor);
      if (ordinary && ConvertUnit<kFrom, kTo>(words[i], factor, out + r * band.out_row_bytes, tally)) continue;
      for (uint64_t c = col; c < col + kUnit && c < band.cols; ++c) ConvertElement<kFrom, kTo>(band, r, c, tally);
    }
  }
}

// bands: ascending first_tile, the first 0. counters: kCounters sums, added to.
template <Codec kFrom, Codec kTo>
__global__ void __launch_bounds__(kThreads) ConvertKernel(const DeviceBand* bands, uint32_t band_count, uint64_t tiles,
                                                          unsigned long long* counters) {
  Tally tally;
  for (uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    uint32_t low = 0, high = band_count;  // the last band that begins at or before the tile
    while (high - low > 1) {
      const uint32_t middle = low + (high - low) / 2;
      if (bands[middle].first_tile <= tile) {
        low = middle;
      } else {
        high = middle;
      }
    }
    const DeviceBand& band = bands[low];
    ConvertTile<kFrom, kTo>(band, tile - band.first_tile, &tally);
  }
  const uint32_t mine[kCounters] = {tally.nan_codes, tally.infinities, tally.zero_scale_codes, tally.bad_scales, tally.overflows};
  const uint32_t any = mine[0] | mine[1] | mine[2] | mine[3] | mine[4];
  if (__syncthreads_or(static_cast<int>(any != 0)) == 0) return;
#pragma unroll
  for (int i = 0; i < kCounters; ++i) {
    const uint32_t sum = __reduce_add_sync(0xFFFFFFFFu, mine[i]);
    if (threadIdx.x % 32 == 0 && sum != 0) atomicAdd(&counters[i], static_cast<unsigned long long>(sum));
  }
}

}  // namespace mimo::kernels::cuda
