// What one GPU thread reads: elements of any source codec, one by one with everything odd about them counted, or units
// of 8 consecutive columns of ordinary values with vector loads. Compiles for the host as well, so that a test can run
// every thread of a grid without a GPU.
#pragma once

#include "kernels/codec/bf16.h"
#include "kernels/codec/block_scale.h"
#include "kernels/codec/fp16.h"
#include "kernels/codec/mx.h"
#include "kernels/codec/nvfp4.h"
#include "kernels/convert.h"

#ifdef __CUDA_ARCH__
#define MIMO_UNROLL _Pragma("unroll")
#define MIMO_LOOP _Pragma("unroll 1")  // rare code: few registers
#else
#define MIMO_UNROLL
#define MIMO_LOOP
#endif

namespace mimo::kernels::cuda {

constexpr int kThreads = 256;
constexpr int kUnit = 8;  // elements

// A band, or a rectangle of one, with device pointers.
struct DeviceBand {
  Codec codec;
  Codec to;  // of `out`
  const uint8_t* data;
  uint64_t data_row_bytes;
  const uint8_t* scales;  // kFp8Block: of blocks first_block .. ; else of the first row
  uint64_t scale_row_bytes;
  uint8_t* out;
  uint64_t out_row_bytes;
  uint64_t rows;
  uint64_t cols;
  uint64_t first_col;     // column of the band where this rectangle begins; a multiple of 32
  const uint32_t* edges;  // of blocks first_block .. first_block + blocks, in band columns; or null: uniform
  uint32_t first_block;
  uint32_t blocks;  // with edges
  uint32_t block_width;
  uint32_t lanes;  // threads across a tile
  uint64_t tiles_across;
  uint64_t first_tile;  // in its launch
  float global;         // kNvfp4
  bool global_divides;
  bool judge_scales;  // holds the band's first row, and these are to be counted if bad
  bool aligned;       // bases and strides allow vector loads and stores
};

struct Tally {
  uint32_t nan_codes = 0, infinities = 0, zero_scale_codes = 0, bad_scales = 0, overflows = 0;
  uint32_t exact_blocks = 0, kept_blocks = 0;  // of encoders
};
constexpr int kCounters = 7;  // in the order of Anomalies, then exact and kept blocks

template <Codec kCodec>
constexpr bool kIsE4m3 = ElementOf(kCodec) == ElementKind::kE4m3;
template <Codec kCodec>
constexpr bool kIsE2m1 = ElementOf(kCodec) == ElementKind::kE2m1;
template <Codec kCodec>
constexpr bool kIsPlain = ElementOf(kCodec) == ElementKind::kValue;
// Columns that share a byte of scales within a row; 1 where there are no such bytes.
template <Codec kCodec>
constexpr uint64_t kScaleColumns = GroupOf(kCodec) == 0 ? 1 : GroupOf(kCodec);

// ---- bytes of any alignment

MIMO_HD inline uint32_t LoadBytes(const uint8_t* p, int count) {
  uint32_t value = 0;
  for (int i = 0; i < count; ++i) value |= static_cast<uint32_t>(p[i]) << (8 * i);
  return value;
}

MIMO_HD inline void StoreBytes(uint8_t* p, uint32_t value, int count) {
  for (int i = 0; i < count; ++i) p[i] = static_cast<uint8_t>(value >> (8 * i));
}

// ---- one element

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

// The last of `count` items that begins at or before `at`; begin(item) ascends, and the first one does.
template <class Begin>
MIMO_HD inline uint32_t LastBefore(uint32_t count, uint64_t at, const Begin& begin) {
  uint32_t low = 0, high = count;
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    if (begin(middle) <= at) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// The block (counted from first_block) of a column of the band. Empty blocks are passed over.
MIMO_HD inline uint32_t BlockOf(const DeviceBand& band, uint64_t band_col) {
  if (band.edges == nullptr) return static_cast<uint32_t>(band_col / band.block_width) - band.first_block;
  return LastBefore(band.blocks, band_col, [&](uint32_t block) { return band.edges[block]; });
}

MIMO_HD inline uint64_t BlockStart(const DeviceBand& band, uint32_t block) {
  if (band.edges != nullptr) return band.edges[block];
  return static_cast<uint64_t>(block + band.first_block) * band.block_width;
}

MIMO_HD inline float BlockScale(const DeviceBand& band, uint32_t block) {
  return FloatFromBits(LoadBytes(band.scales + 4 * static_cast<uint64_t>(block), 4));
}

// Whether columns [col, end) of a row of E2M1 hold anything but zeros.
MIMO_HD inline bool AnyNonZeroNibble(const DeviceBand& band, uint64_t row, uint64_t col, uint64_t end) {
  const uint8_t* in = band.data + row * band.data_row_bytes;
  bool any = false;
  for (uint64_t c = col; c < end && c < band.cols; ++c) any = any || (in[c / 2] >> (c % 2 * 4) & 7) != 0;
  return any;
}

struct Element {
  float value;
  bool may_overflow;  // an infinite result counts as an overflow
};

// Counts all but overflows, which depend on the target.
template <Codec kFrom>
MIMO_HD inline Element SourceElement(const DeviceBand& band, uint64_t row, uint64_t col, Tally* tally) {
  const uint8_t* in = band.data + row * band.data_row_bytes;
  if constexpr (kFrom == Codec::kFp8Block) {
    const uint32_t block = BlockOf(band, band.first_col + col);
    const float scale = BlockScale(band, block);
    if (band.judge_scales && row == 0 && BlockStart(band, block) == band.first_col + col) {
      tally->bad_scales += Fp8ScaleIsBad(scale);
    }
    const uint8_t code = in[col];
    tally->nan_codes += E4m3IsNan(code);
    tally->zero_scale_codes += scale == 0 && (code & 0x7F) != 0;
    return {Fp8Value(code, scale), IsFinite(scale)};
  } else if constexpr (kIsPlain<kFrom>) {
    constexpr int kInBytes = kFrom == Codec::kFp32 ? 4 : 2;
    const uint32_t bits = LoadBytes(in + col * kInBytes, kInBytes);
    const bool infinite = BitsAreInfinite<kFrom>(bits);
    tally->nan_codes += BitsAreNan<kFrom>(bits);
    tally->infinities += infinite;
    return {CanonicalNan(DecodeBits<kFrom>(bits)), !infinite};
  } else {
    static_assert(kFrom == Codec::kMxfp8 || kFrom == Codec::kMxfp4 || kFrom == Codec::kNvfp4);
    const uint8_t byte = band.scales[row * band.scale_row_bytes + col / kScaleColumns<kFrom>];
    if constexpr (kFrom == Codec::kMxfp8) {
      const uint8_t code = in[col];
      tally->nan_codes += byte == kE8m0Nan || E4m3IsNan(code);
      return {Mxfp8Value(code, byte), true};
    }
    const uint8_t nibble = static_cast<uint8_t>(in[col / 2] >> (col % 2 * 4) & 15);
    if constexpr (kFrom == Codec::kMxfp4) {
      tally->nan_codes += byte == kE8m0Nan;
      return {Mxfp4Value(nibble, byte), true};
    }
    if (band.judge_scales && row == 0 && band.first_col + col == 0) tally->bad_scales += Fp8ScaleIsBad(band.global);
    const float multiplier = Nvfp4Multiplier(byte, band.global, band.global_divides);
    tally->nan_codes += E4m3IsNan(byte);
    tally->zero_scale_codes += multiplier == 0 && (nibble & 7) != 0;
    return {Nvfp4Value(nibble, multiplier), IsFinite(band.global)};
  }
}

// ---- words

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
MIMO_HD inline void StoreWords(uint8_t* p, const Words<kWords>& words) {  // likewise
  if constexpr (kWords == 2) {
    *reinterpret_cast<Pair*>(p) = Pair{words.w[0], words.w[1]};
  } else {
    MIMO_UNROLL
    for (int i = 0; i < kWords; i += 4) {
      reinterpret_cast<Quad*>(p)[i / 4] = Quad{words.w[i], words.w[i + 1], words.w[i + 2], words.w[i + 3]};
    }
  }
}

// ---- a unit of 8 elements

template <Codec kFrom>
constexpr int kInWords = kFrom == Codec::kFp32 ? 8
                         : kIsE4m3<kFrom>      ? 2
                         : kIsE2m1<kFrom>      ? 1
                                               : 4;

// Whether a unit holds nothing to count: no NaN code, no NaN or infinity. (E2M1 has neither: scales do.)
template <Codec kFrom>
MIMO_HD inline bool IsOrdinary(const Words<kInWords<kFrom>>& in) {
  if constexpr (kIsE2m1<kFrom>) {
    return true;
  } else {  // a carry into the sign bit of any field betrays one
    uint32_t found = 0;
    MIMO_UNROLL
    for (int i = 0; i < kInWords<kFrom>; ++i) {
      if constexpr (kIsE4m3<kFrom>) {
        found |= (in.w[i] & 0x7F7F7F7Fu) + 0x01010101u;
      } else if constexpr (kFrom == Codec::kFp32) {
        found |= (in.w[i] & 0x7FFFFFFFu) + (0x80000000u - kFp32Inf);
      } else {
        constexpr uint32_t kToSign = 0x8000u - (kFrom == Codec::kFp16 ? kFp16Inf : kBf16Inf);
        found |= (in.w[i] & 0x7FFF7FFFu) + (kToSign | kToSign << 16);
      }
    }
    constexpr uint32_t kSigns = kIsE4m3<kFrom> ? 0x80808080u : kFrom == Codec::kFp32 ? 0x80000000u : 0x80008000u;
    return (found & kSigns) == 0;
  }
}

// `factor`: see FastFactor.
template <Codec kFrom>
MIMO_HD inline void DecodeUnit(const Words<kInWords<kFrom>>& in, float factor, float* values) {
  MIMO_UNROLL
  for (int i = 0; i < kUnit; ++i) {
    if constexpr (kIsE4m3<kFrom>) {  // the code's bits where FP32 has them: value * 2^-120, subnormals included
      const int32_t top = static_cast<int32_t>(in.w[i / 4] << (24 - i % 4 * 8));
      values[i] = FloatFromBits(static_cast<uint32_t>(top >> 4) & 0x87F00000u) * factor;
    } else if constexpr (kIsE2m1<kFrom>) {  // likewise: value * 2^-126
      const int32_t top = static_cast<int32_t>(in.w[0] << (28 - i * 4));
      values[i] = FloatFromBits(static_cast<uint32_t>(top >> 6) & 0x81C00000u) * factor;
    } else if constexpr (kFrom == Codec::kFp32) {
      values[i] = FloatFromBits(in.w[i]);
    } else {
      static_assert(kFrom == Codec::kFp16 || kFrom == Codec::kBf16);
      values[i] = DecodeBits<kFrom>(in.w[i / 2] >> (i % 2 * 16) & 0xFFFFu);
    }
  }
}

// The multiplier that also undoes the bit placement of DecodeUnit: exact, so value * scale is still rounded once. False
// when the scale is not ordinary: then the product could leave the exact range, overflow the target, or has to be
// counted.
MIMO_HD inline bool FastFactorFp8(float scale, float* factor) {
  *factor = scale * 0x1p120f;
  return scale > 0 && scale < 128.0f;
}
// That multiplier from a byte of scales, of the other codecs; false under the same conditions.
template <Codec kFrom>
MIMO_HD inline bool FastFactor(const DeviceBand& band, uint8_t byte, float* factor) {
  if constexpr (kFrom == Codec::kMxfp4) {  // 2^(byte - 127) * 2^126
    *factor = FloatFromBits((static_cast<uint32_t>(byte) + 126u) << 23);
    return byte <= 128;
  } else if constexpr (kFrom == Codec::kMxfp8) {  // 2^(byte - 127) * 2^120
    *factor = FloatFromBits((static_cast<uint32_t>(byte) + 120u) << 23);
    return byte <= 133;
  } else {
    static_assert(kFrom == Codec::kNvfp4);
    const float multiplier = Nvfp4Multiplier(byte, band.global, band.global_divides);
    *factor = multiplier * 0x1p126f;
    return multiplier > 0 && multiplier < 2.0f && !Fp8ScaleIsBad(band.global);
  }
}

// The factor of a unit of any codec; false when the unit is not ordinary as far as scales go.
template <Codec kFrom>
MIMO_HD inline bool UnitFactor(const DeviceBand& band, uint64_t row, uint64_t col, float* factor) {
  *factor = 1.0f;
  if constexpr (kFrom == Codec::kFp8Block) {
    const uint32_t block = BlockOf(band, band.first_col + col);
    return block == BlockOf(band, band.first_col + col + kUnit - 1) && FastFactorFp8(BlockScale(band, block), factor);
  } else if constexpr (!kIsPlain<kFrom>) {
    return FastFactor<kFrom>(band, band.scales[row * band.scale_row_bytes + col / kScaleColumns<kFrom>], factor);
  }
  return true;
}

// Decodes columns col .. col + 8 of a row if they are whole, aligned and ordinary: nothing about them is to be counted.
template <Codec kFrom>
MIMO_HD inline bool FastUnit(const DeviceBand& band, uint64_t row, uint64_t col, float* values) {
  float factor;
  if (!band.aligned || col + kUnit > band.cols || !UnitFactor<kFrom>(band, row, col, &factor)) return false;
  const Words<kInWords<kFrom>> words =
      LoadWords<kInWords<kFrom>>(band.data + row * band.data_row_bytes + col / kUnit * (kInWords<kFrom> * 4));
  if (!IsOrdinary<kFrom>(words)) return false;
  DecodeUnit<kFrom>(words, factor, values);
  return true;
}

// Any unit; counts what is odd, overflow of FP32 included. Columns beyond the last are not written.
template <Codec kFrom>
MIMO_HD inline void AnyUnit(const DeviceBand& band, uint64_t row, uint64_t col, float* values, Tally* tally) {
  if (FastUnit<kFrom>(band, row, col, values)) return;
  for (uint64_t c = col; c < col + kUnit && c < band.cols; ++c) {
    const Element element = SourceElement<kFrom>(band, row, c, tally);
    tally->overflows += element.may_overflow && IsInf(element.value);
    values[c - col] = element.value;
  }
}

MIMO_HD inline void DecodeAnyUnit(const DeviceBand& band, uint64_t row, uint64_t col, float* values, Tally* tally) {
  switch (band.codec) {
    case Codec::kFp32:
      return AnyUnit<Codec::kFp32>(band, row, col, values, tally);
    case Codec::kFp16:
      return AnyUnit<Codec::kFp16>(band, row, col, values, tally);
    case Codec::kBf16:
      return AnyUnit<Codec::kBf16>(band, row, col, values, tally);
    case Codec::kFp8Block:
      return AnyUnit<Codec::kFp8Block>(band, row, col, values, tally);
    case Codec::kMxfp4:
      return AnyUnit<Codec::kMxfp4>(band, row, col, values, tally);
    case Codec::kMxfp8:
      return AnyUnit<Codec::kMxfp8>(band, row, col, values, tally);
    case Codec::kNvfp4:
      return AnyUnit<Codec::kNvfp4>(band, row, col, values, tally);
  }
}

inline bool IsMultiple(const void* pointer, uint64_t stride, uint64_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0 && stride % bytes == 0;
}
// Bytes of a unit, kUnit elements, as far as one load takes them.
inline uint64_t LoadAlignment(Codec from) {
  return IsValueCodec(from) ? 16 : ElementBits(from) * kUnit / 8;
}

}  // namespace mimo::kernels::cuda
