// What one GPU thread does with one tile of a band. A thread owns 8 consecutive columns (a unit) of a tile and goes
// down its rows, so neighbouring threads load and store neighbouring 8 to 32 bytes and a column's scale is looked up
// once per tile. Whole units of ordinary values take the vector path; everything odd (misaligned, straddling a block
// edge, NaN, scales that are not small positive numbers) goes element by element through the same codecs as the CPU.
// Compiles for the host as well, so that a test can run every thread of a grid without a GPU.
#pragma once

#include "kernels/codec/bf16.h"
#include "kernels/codec/block_scale.h"
#include "kernels/codec/fp16.h"
#include "kernels/convert.h"

#ifdef __CUDA_ARCH__
#define MIMO_UNROLL _Pragma("unroll")
#else
#define MIMO_UNROLL
#endif

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
  uint32_t lanes;  // threads across a tile
  uint64_t tiles_across;
  uint64_t first_tile;  // in its launch
  bool judge_scales;    // holds the band's first row
  bool aligned;         // bases and strides allow vector loads and stores
};

struct Tally {
  uint32_t nan_codes = 0, infinities = 0, zero_scale_codes = 0, bad_scales = 0, overflows = 0;
};
constexpr int kCounters = 5;  // in the order of Anomalies

template <Codec kCodec>
constexpr bool kIsPlain = kCodec != Codec::kFp8Block&& kCodec != Codec::kMxfp4;

// ---- bytes of any alignment
// ---------------------------------------------------------------------------------------------

MIMO_HD inline uint32_t LoadBytes(const uint8_t* p, int count) {
  uint32_t value = 0;
  for (int i = 0; i < count; ++i) value |= static_cast<uint32_t>(p[i]) << (8 * i);
  return value;
}

MIMO_HD inline void StoreBytes(uint8_t* p, uint32_t value, int count) {
  for (int i = 0; i < count; ++i) p[i] = static_cast<uint8_t>(value >> (8 * i));
}

// ---- one element
// --------------------------------------------------------------------------------------------------------

template <Codec kTo>
MIMO_HD inline uint32_t EncodeBits(float value) {
  if constexpr (kTo == Codec::kFp32) return FloatBits(value);
  if constexpr (kTo == Codec::kFp16) return Fp16FromFloat(value);
  return Bf16FromFloat(value);
}

template <Codec kCodec>
MIMO_HD inline bool BitsAreInfinite(uint32_t bits) {
  if constexpr (kCodec == Codec::kFp32) return (bits & 0x7FFFFFFFu) == kFp32Inf;
  return (bits & 0x7FFFu) == (kCodec == Codec::kFp16 ? kFp16Inf : kBf16Inf);
}

template <Codec kCodec>
MIMO_HD inline bool BitsAreNan(uint32_t bits) {
  if constexpr (kCodec == Codec::kFp32) return (bits & 0x7FFFFFFFu) > kFp32Inf;
  return (bits & 0x7FFFu) > (kCodec == Codec::kFp16 ? kFp16Inf : kBf16Inf);
}

template <Codec kFrom>
MIMO_HD inline float DecodeBits(uint32_t bits) {
  if constexpr (kFrom == Codec::kFp32) return FloatFromBits(bits);
  if constexpr (kFrom == Codec::kFp16) return Fp16ToFloat(static_cast<uint16_t>(bits));
  return Bf16ToFloat(static_cast<uint16_t>(bits));
}

// The block (counted from first_block) of a column of the band.
MIMO_HD inline uint32_t BlockOf(const DeviceBand& band, uint64_t band_col) {
  if (band.edges == nullptr) return static_cast<uint32_t>(band_col / band.block_width) - band.first_block;
  uint32_t low = 0,
           high = band.blocks;  // the last block that begins at or before the column; empty blocks are passed over
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

MIMO_HD inline uint64_t BlockStart(const DeviceBand& band, uint32_t block) {
  if (band.edges != nullptr) return band.edges[block];
  return static_cast<uint64_t>(block + band.first_block) * band.block_width;
}

template <Codec kFrom, Codec kTo>
MIMO_HD inline void ConvertElement(const DeviceBand& band, uint64_t row, uint64_t col, Tally* tally) {
  const uint8_t* in = band.data + row * band.data_row_bytes;
  uint8_t* out = band.out + row * band.out_row_bytes;
  constexpr int kOutBytes = kTo == Codec::kFp32 ? 4 : 2;
  uint32_t result;
  if constexpr (kFrom == Codec::kFp8Block) {
    const uint32_t block = BlockOf(band, band.first_col + col);
    const float scale = FloatFromBits(LoadBytes(band.scales + 4 * static_cast<uint64_t>(block), 4));
    if (band.judge_scales && row == 0 && BlockStart(band, block) == band.first_col + col)
      tally->bad_scales += Fp8ScaleIsBad(scale);
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

// ---- a unit of 8 elements
// -----------------------------------------------------------------------------------------------

struct alignas(8) Pair {
  uint32_t x, y;
};
struct alignas(16) Quad {  // one load or store instruction
  uint32_t x, y, z, w;
};

template <int kWords>
struct Words {
  uint32_t w[kWords];
};

template <int kWords>
MIMO_HD inline Words<kWords> LoadWords(const uint8_t* p) {  // p is aligned to the smaller of the size and 16 bytes
  Words<kWords> words;
  if constexpr (kWords == 1) {
    words.w[0] = *reinterpret_cast<const uint32_t*>(p);
  } else if constexpr (kWords == 2) {
    const Pair v = *reinterpret_cast<const Pair*>(p);
    words.w[0] = v.x;
    words.w[1] = v.y;
  } else {
    MIMO_UNROLL
    for (int i = 0; i < kWords; i += 4) {
      const Quad v = reinterpret_cast<const Quad*>(p)[i / 4];
      words.w[i] = v.x;
      words.w[i + 1] = v.y;
      words.w[i + 2] = v.z;
      words.w[i + 3] = v.w;
    }
  }
  return words;
}

template <int kWords>
MIMO_HD inline void StoreWords(uint8_t* p, const Words<kWords>& words) {
  MIMO_UNROLL
  for (int i = 0; i < kWords; i += 4) {
    reinterpret_cast<Quad*>(p)[i / 4] = Quad{words.w[i], words.w[i + 1], words.w[i + 2], words.w[i + 3]};
  }
}

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
template <Codec kFrom>
constexpr int kInWords = kFrom == Codec::kFp32       ? 8
                         : kFrom == Codec::kFp8Block ? 2
                         : kFrom == Codec::kMxfp4    ? 1
                                                     : 4;

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

// Whether a unit holds nothing to count: no NaN code, no NaN or infinity. (An MXFP4 group's NaN is in its scale.)
template <Codec kFrom>
MIMO_HD inline bool IsOrdinary(const Words<kInWords<kFrom>>& in) {
  if constexpr (kFrom == Codec::kMxfp4) {
    return true;
  } else {  // a carry into the sign bit of any field betrays one
    uint32_t found = 0;
    MIMO_UNROLL
    for (int i = 0; i < kInWords<kFrom>; ++i) {
      if constexpr (kFrom == Codec::kFp8Block) {
        found |= (in.w[i] & 0x7F7F7F7Fu) + 0x01010101u;
      } else if constexpr (kFrom == Codec::kFp32) {
        found |= (in.w[i] & 0x7FFFFFFFu) + (0x80000000u - kFp32Inf);
      } else {
        constexpr uint32_t kToSign = 0x8000u - (kFrom == Codec::kFp16 ? kFp16Inf : kBf16Inf);
        found |= (in.w[i] & 0x7FFF7FFFu) + (kToSign | kToSign << 16);
      }
    }
    constexpr uint32_t kSigns = kFrom == Codec::kFp8Block ? 0x80808080u
                                : kFrom == Codec::kFp32   ? 0x80000000u
                                                          : 0x80008000u;
    return (found & kSigns) == 0;
  }
}

// `factor`: see FastFactorFp8 and FastFactorMxfp4.
template <Codec kFrom>
MIMO_HD inline void DecodeUnit(const Words<kInWords<kFrom>>& in, float factor, float (&values)[kUnit]) {
  MIMO_UNROLL
  for (int i = 0; i < kUnit; ++i) {
    if constexpr (kFrom ==
                  Codec::kFp8Block) {  // the code's bits where FP32 has them: value * 2^-120, subnormals included
      const int32_t top = static_cast<int32_t>(in.w[i / 4] << (24 - i % 4 * 8));
      values[i] = FloatFromBits(static_cast<uint32_t>(top >> 4) & 0x87F00000u) * factor;
    } else if constexpr (kFrom == Codec::kMxfp4) {  // likewise: value * 2^-126
      const int32_t top = static_cast<int32_t>(in.w[0] << (28 - i * 4));
      values[i] = FloatFromBits(static_cast<uint32_t>(top >> 6) & 0x81C00000u) * factor;
    } else if constexpr (kFrom == Codec::kFp32) {
      values[i] = FloatFromBits(in.w[i]);
    } else {
      values[i] = DecodeBits<kFrom>(in.w[i / 2] >> (i % 2 * 16) & 0xFFFFu);
    }
  }
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

// The multiplier that also undoes the bit placement of DecodeUnit: exact, so value * scale is still rounded once. False
// when the scale is not ordinary: then the product could leave the exact range, overflow the target, or has to be
// counted.
MIMO_HD inline bool FastFactorFp8(float scale, float* factor) {
  *factor = scale * 0x1p120f;
  return scale > 0 && scale < 128.0f;
}
MIMO_HD inline bool FastFactorMxfp4(uint8_t byte, float* factor) {  // 2^(byte - 127) * 2^126
  *factor = FloatFromBits((static_cast<uint32_t>(byte) + 126u) << 23);
  return byte <= 128;
}

// ---- a tile
// -------------------------------------------------------------------------------------------------------------

inline uint64_t TileRows(const DeviceBand& band) {
  return static_cast<uint64_t>(kThreads / band.lanes) * kTileRows;
}
inline uint64_t TileCount(const DeviceBand& band) {
  return (band.rows + TileRows(band) - 1) / TileRows(band) * band.tiles_across;
}

// Fills lanes, tiles and alignment of a band whose pointers, strides, rows and cols (both > 0) are set.
inline void ShapeTiles(Codec from, DeviceBand* band) {
  const auto multiple = [](const void* pointer, uint64_t stride, uint64_t bytes) {
    return reinterpret_cast<uintptr_t>(pointer) % bytes == 0 && stride % bytes == 0;
  };
  const uint64_t units = (band->cols + kUnit - 1) / kUnit;
  band->lanes = static_cast<uint32_t>(units < kThreads ? units : kThreads);
  band->tiles_across = (units + band->lanes - 1) / band->lanes;
  const uint64_t load_bytes = from == Codec::kFp8Block ? 8 : from == Codec::kMxfp4 ? 4 : 16;
  band->aligned =
      multiple(band->data, band->data_row_bytes, load_bytes) && multiple(band->out, band->out_row_bytes, 16);
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
    fast = FastFactorFp8(FloatFromBits(LoadBytes(band.scales + 4 * static_cast<uint64_t>(block), 4)), &factor) && fast;
  }
  constexpr uint64_t kInBytes = kInWords<kFrom> * 4;
  constexpr uint64_t kOutBytes = kOutWords<kTo> * 4;
  // In registers: the compiler has to assume that stores change `band`.
  const uint8_t* const in = band.data + col / kUnit * kInBytes;
  uint8_t* const out = band.out + col / kUnit * kOutBytes;
  const uint64_t in_stride = band.data_row_bytes;
  const uint64_t out_stride = band.out_row_bytes;
  [[maybe_unused]] const uint8_t* const scales = band.scales + col / kMxfp4Group;
  [[maybe_unused]] const uint64_t scale_stride = band.scale_row_bytes;
  for (uint64_t row = tile_row + line; row < end; row += static_cast<uint64_t>(lines) * kUnroll) {
    Words<kInWords<kFrom>> words[kUnroll];
    [[maybe_unused]] uint8_t bytes[kUnroll];  // E8M0
    if (fast) {
      MIMO_UNROLL
      for (int i = 0; i < kUnroll; ++i) {
        const uint64_t r = row + static_cast<uint64_t>(i) * lines;
        if (r >= end) continue;
        words[i] = LoadWords<kInWords<kFrom>>(in + r * in_stride);
        if constexpr (kFrom == Codec::kMxfp4) bytes[i] = scales[r * scale_stride];
      }
    }
    MIMO_UNROLL
    for (int i = 0; i < kUnroll; ++i) {
      const uint64_t r = row + static_cast<uint64_t>(i) * lines;
      if (r >= end) continue;
      bool ordinary = fast;
      if constexpr (kFrom == Codec::kMxfp4) ordinary = fast && FastFactorMxfp4(bytes[i], &factor);
      if (ordinary && ConvertUnit<kFrom, kTo>(words[i], factor, out + r * out_stride, tally)) continue;
      for (uint64_t c = col; c < col + kUnit && c < band.cols; ++c) ConvertElement<kFrom, kTo>(band, r, c, tally);
    }
  }
}

}  // namespace mimo::kernels::cuda
