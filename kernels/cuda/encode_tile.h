// What one GPU thread does for the encoders of groups within a row: NVFP4, MXFP4 and MXFP8. A thread makes one group of
// 16 or 32 columns at a time. Groups of ordinary values take a vector path whose results are proved equal to the
// definition; the rest follow the definition of kernels/codec. FP8 -> four bits under a rule of the maximum:
// nibble_table.h.
#pragma once

#include "kernels/codec/scale_rule.h"
#include "kernels/cuda/e2m1_bounds.h"
#include "kernels/cuda/source_tile.h"
#include "kernels/encode.h"

#ifdef __CUDACC__
#define MIMO_HD_APART __host__ __device__ __noinline__  // rare: kept out of the registers of the usual path
#else
#define MIMO_HD_APART
#endif

namespace mimo::kernels::cuda {

// Rows of a target from one source run, or some of them. `from.out` is not used.
struct DeviceRun {
  DeviceBand from;
  uint8_t* codes;  // of the first row
  uint64_t code_row_bytes;
  uint8_t* scales;  // of the first row; block FP8: of the job's first row
  uint64_t scale_row_bytes;
  uint64_t first_row;             // in the job
  const uint8_t* keep = nullptr;  // as `scales`, of the same row bytes: EncodeJob::keep
};

struct EncodeParams {
  Encoding encoding;
  Nvfp4Global global;
};

enum class GroupTarget : uint8_t { kNvfp4Max, kNvfp4Best, kMxfp4, kMxfp8 };

template <GroupTarget kTo>
constexpr bool kToNvfp4 = kTo == GroupTarget::kNvfp4Max || kTo == GroupTarget::kNvfp4Best;
template <GroupTarget kTo>
constexpr int kGroup = kToNvfp4<kTo> ? int{kNvfp4Group} : int{kMxGroup};
template <GroupTarget kTo>
constexpr int kCodeWords = kTo == GroupTarget::kMxfp8 ? 8 : kGroup<kTo> / 8;  // of a group

inline GroupTarget TargetOf(const Encoding& encoding) {
  switch (encoding.codec) {
    case Codec::kMxfp4:
      return GroupTarget::kMxfp4;
    case Codec::kMxfp8:
      return GroupTarget::kMxfp8;
    case Codec::kNvfp4:
    case Codec::kFp8Block:  // cell_tile.h, as values are never encoded: neither asks
    case Codec::kFp32:
    case Codec::kFp16:
    case Codec::kBf16:
      break;
  }
  return encoding.rule == ScaleRule::kMax ? GroupTarget::kNvfp4Max : GroupTarget::kNvfp4Best;
}

// ---- by definition

// Rounds as the encoding asks. Counts what only that makes infinite.
MIMO_HD inline float EncodedElement(float x, bool via_bf16, uint32_t* overflows) {
  const float value = EncodedValue(x, via_bf16);
  *overflows += IsInf(value) && !IsInf(x);
  return value;
}

// MXFP4 -> NVFP4 under an exact multiplier: nibbles moved. False where the group is out of range.
MIMO_HD inline bool MoveMxfp4Group(const DeviceRun& run, const EncodeParams& params, uint64_t row, uint64_t col,
                                   uint8_t* codes, uint8_t* scale) {
  if (run.from.codec != Codec::kMxfp4 || !params.global.exact) return false;
  const uint8_t byte = run.from.scales[row * run.from.scale_row_bytes + col / kMxGroup];
  const uint8_t largest = params.global.largest_exponent;
  if (byte == kE8m0Nan) return false;
  const bool in_range = byte <= largest && largest - byte <= kNvfp4ExactSpan;
  const uint64_t group = col / kMxGroup * kMxGroup;
  if (!in_range && AnyNonZeroNibble(run.from, row, group, group + kMxGroup)) return false;
  const uint8_t* in = run.from.data + row * run.from.data_row_bytes + col / 2;
  for (uint32_t i = 0; i < kNvfp4Group / 2; ++i) codes[i] = in[i];
  *scale = Nvfp4ExactScale(byte, largest);
  return true;
}

// Block FP8 under a power of two -> MXFP8: codes moved. False where the group straddles blocks or the scale is none.
MIMO_HD inline bool MoveFp8Group(const DeviceRun& run, uint64_t row, uint64_t col, uint8_t* codes, uint8_t* scale,
                                 Tally* tally) {
  if (run.from.codec != Codec::kFp8Block) return false;
  const uint32_t block = BlockOf(run.from, col);
  if (block != BlockOf(run.from, col + kMxGroup - 1)) return false;
  if (!Fp8ScaleAsE8m0(BlockScale(run.from, block), scale)) return false;
  const uint8_t* in = run.from.data + row * run.from.data_row_bytes;
  for (uint64_t c = col; c < col + kMxGroup; ++c) {
    const Element element = SourceElement<Codec::kFp8Block>(run.from, row, c, tally);
    tally->overflows += element.may_overflow && IsInf(element.value);
    codes[c - col] = in[c];
  }
  return true;
}

// The byte of an MXFP4 group whose NVFP4 groups can be moved. False where they cannot, or scales are kept.
MIMO_HD inline bool Nvfp4Byte(const DeviceRun& run, uint64_t row, uint64_t col, uint8_t* byte) {
  if (run.from.codec != Codec::kNvfp4 || run.keep != nullptr) return false;
  const uint8_t* scales = run.from.scales + row * run.from.scale_row_bytes + col / kNvfp4Group;
  return Nvfp4PairAsE8m0(scales[0], scales[1], run.from.global, run.from.global_divides, byte);
}

// NVFP4 under a power of two -> MXFP4: nibbles moved.
MIMO_HD inline bool MoveNvfp4Group(const DeviceRun& run, uint64_t row, uint64_t col, uint8_t* codes, uint8_t* scale) {
  if (!Nvfp4Byte(run, row, col, scale)) return false;
  const uint8_t* in = run.from.data + row * run.from.data_row_bytes + col / 2;
  for (uint32_t i = 0; i < kMxGroup / 2; ++i) codes[i] = in[i];
  return true;
}

// The byte that an MXFP4 group of finite values keeps. False: it gets that of the rule.
MIMO_HD inline bool KeepsByte(const DeviceRun& run, uint64_t row, uint64_t col, float amax, uint8_t* byte) {
  if (run.keep == nullptr) return false;
  const uint8_t old = run.keep[row * run.scale_row_bytes + col / kMxGroup];
  if (!Mxfp4ScaleFits(amax, old)) return false;
  *byte = old;
  return true;
}

template <GroupTarget kTo>
MIMO_HD_APART void EncodeGroupByDefinition(const DeviceRun& run, const EncodeParams& params, uint64_t row, uint64_t col,
                                           Tally* tally) {
  constexpr int kSize = kGroup<kTo>;
  uint8_t* scale = run.scales + row * run.scale_row_bytes + col / kSize;
  uint8_t* codes = run.codes + row * run.code_row_bytes + col / kSize * (4 * kCodeWords<kTo>);
  bool moved = false;
  if constexpr (kToNvfp4<kTo>) moved = MoveMxfp4Group(run, params, row, col, codes, scale);
  if constexpr (kTo == GroupTarget::kMxfp8) moved = MoveFp8Group(run, row, col, codes, scale, tally);
  if constexpr (kTo == GroupTarget::kMxfp4) moved = MoveNvfp4Group(run, row, col, codes, scale);
  if (moved) {
    ++tally->exact_blocks;
    return;
  }
  float values[kSize];
  float magnitudes[kSize];
  float amax = 0;
  MIMO_LOOP
  for (int i = 0; i < kSize; i += kUnit)
    DecodeAnyUnit(run.from, row, col + static_cast<uint64_t>(i), values + i, tally);
  MIMO_LOOP
  for (int i = 0; i < kSize; ++i) {
    values[i] = EncodedElement(values[i], params.encoding.via_bf16, &tally->overflows);
    magnitudes[i] = FiniteMagnitude(values[i]);
    if (magnitudes[i] > amax) amax = magnitudes[i];
  }
  const ScaleRule rule = params.encoding.rule;
  if constexpr (kTo == GroupTarget::kMxfp8) {
    *scale = MxGroupScale(rule, amax, MxElement::kE4m3);
    MIMO_LOOP
    for (int i = 0; i < kSize; ++i) codes[i] = Mxfp8Code(values[i], *scale);
  } else {
    uint8_t byte;
    float multiplier = 0;
    bool kept = false;
    if constexpr (kTo == GroupTarget::kMxfp4) {
      bool all_finite = true;
      MIMO_LOOP
      for (int i = 0; i < kSize; ++i) all_finite = all_finite && IsFinite(values[i]);
      kept = all_finite && KeepsByte(run, row, col, amax, &byte);
      if (!kept) byte = MxGroupScale(rule, amax, MxElement::kE2m1);
      tally->kept_blocks += kept ? 1 : 0;
    } else {
      byte = Nvfp4GroupScale(rule, magnitudes, amax, RangeOf(params.global));
      multiplier = Nvfp4Multiplier(byte, params.global.multiplier, false);
    }
    *scale = byte;
    const bool toward_zero = params.encoding.ties == Ties::kTowardZero;
    MIMO_LOOP
    for (int i = 0; i < kSize; i += 2) {
      uint8_t two[2];
      MIMO_LOOP
      for (int j = 0; j < 2; ++j) {
        two[j] = kTo != GroupTarget::kMxfp4 ? Nvfp4Code(values[i + j], multiplier)
                 : kept                     ? Mxfp4KeptCode(values[i + j], byte, toward_zero)
                                            : Mxfp4Code(values[i + j], byte, toward_zero);
      }
      codes[i / 2] = static_cast<uint8_t>(two[0] | two[1] << 4);
    }
  }
}

// ---- ordinary groups

// E4M3 of two finite values, saturating; the first in the low byte.
MIMO_HD inline uint32_t PackE4m3(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  uint16_t packed;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
  return packed;
#else
  return static_cast<uint32_t>(E4m3FromFloat(low, true)) | static_cast<uint32_t>(E4m3FromFloat(high, true)) << 8;
#endif
}

// The scale and the codes of finite values, `amax` their largest magnitude; `kept`: the scale is given (kMxfp4). False:
// by definition, please.
template <GroupTarget kTo>
MIMO_HD inline bool QuickGroup(const float* values, float amax, const EncodeParams& params, [[maybe_unused]] bool kept,
                               uint8_t* scale, Words<kCodeWords<kTo>>* codes) {
  constexpr int kSize = kGroup<kTo>;
  if constexpr (kTo == GroupTarget::kMxfp8) {
    *scale = MxGroupScale(params.encoding.rule, amax, MxElement::kE4m3);
    const float inverse = MxInverse(*scale);
    MIMO_UNROLL
    for (int i = 0; i < kSize; i += 4) {
      codes->w[i / 4] = PackE4m3(values[i] * inverse, values[i + 1] * inverse) |
                        PackE4m3(values[i + 2] * inverse, values[i + 3] * inverse) << 16;
    }
    return true;
  } else if constexpr (kTo == GroupTarget::kMxfp4) {
    if (!kept) *scale = MxGroupScale(params.encoding.rule, amax, MxElement::kE2m1);
    const bool toward_zero = params.encoding.ties == Ties::kTowardZero;
    MIMO_UNROLL
    for (int i = 0; i < kSize; i += 8) {
      uint32_t word = 0;
      MIMO_UNROLL
      for (int j = 0; j < 8; ++j) {
        const uint8_t code =
            kept ? Mxfp4KeptCode(values[i + j], *scale, toward_zero) : Mxfp4Code(values[i + j], *scale, toward_zero);
        word |= static_cast<uint32_t>(code) << (4 * j);
      }
      codes->w[i / 8] = word;
    }
    return true;
  } else {
    if constexpr (kTo == GroupTarget::kNvfp4Max) {
      *scale = Nvfp4MaxScale(amax, params.global.multiplier);
    } else {
      float magnitudes[kSize];
      MIMO_UNROLL
      for (int i = 0; i < kSize; ++i) magnitudes[i] = Magnitude(values[i]);
      *scale = Nvfp4GroupScale(params.encoding.rule, magnitudes, amax, RangeOf(params.global));
    }
    const float multiplier = Nvfp4Multiplier(*scale, params.global.multiplier, false);
    return QuickNvfp4Codes(values, amax, multiplier, codes->w);
  }
}

template <Codec kFrom, GroupTarget kTo>
MIMO_HD inline bool EncodeGroupQuickly(const DeviceRun& run, const EncodeParams& params, uint64_t row, uint64_t col,
                                       Tally* tally) {
  constexpr int kSize = kGroup<kTo>;
  if (!run.from.aligned) return false;
  if constexpr (kFrom == Codec::kMxfp4 && kToNvfp4<kTo>) {
    if (params.global.exact) return false;
  }
  if constexpr (kFrom == Codec::kFp8Block && kTo == GroupTarget::kMxfp8) {
    uint8_t byte;
    if (Fp8ScaleAsE8m0(BlockScale(run.from, BlockOf(run.from, col)), &byte)) return false;
  }
  if constexpr (kFrom == Codec::kNvfp4 && kTo == GroupTarget::kMxfp4) {
    uint8_t byte;
    if (Nvfp4Byte(run, row, col, &byte)) return false;
  }
  float values[kSize];
  MIMO_UNROLL
  for (int i = 0; i < kSize; i += kUnit) {
    if (!FastUnit<kFrom>(run.from, row, col + static_cast<uint64_t>(i), values + i)) return false;
  }
  float amax = 0;
  MIMO_UNROLL
  for (int i = 0; i < kSize; ++i) {
    values[i] = EncodedValue(values[i], params.encoding.via_bf16);
    amax = Magnitude(values[i]) > amax ? Magnitude(values[i]) : amax;
  }
  uint8_t scale = 0;
  Words<kCodeWords<kTo>> codes;
  if (!IsFinite(amax)) return false;
  bool kept = false;
  if constexpr (kTo == GroupTarget::kMxfp4) kept = KeepsByte(run, row, col, amax, &scale);
  if (!QuickGroup<kTo>(values, amax, params, kept, &scale, &codes)) return false;
  tally->kept_blocks += kept ? 1 : 0;
  StoreWords(run.codes + row * run.code_row_bytes + col / kSize * (4 * kCodeWords<kTo>), codes);
  run.scales[row * run.scale_row_bytes + col / kSize] = scale;
  return true;
}

// Moves, without arithmetic, what the exact paths take of whole aligned groups.
template <Codec kFrom, GroupTarget kTo>
MIMO_HD inline bool MoveGroupQuickly(const DeviceRun& run, [[maybe_unused]] const EncodeParams& params, uint64_t row,
                                     [[maybe_unused]] uint64_t col, [[maybe_unused]] Tally* tally) {
  if (!run.from.aligned) return false;
  [[maybe_unused]] uint8_t* codes = run.codes + row * run.code_row_bytes;
  [[maybe_unused]] uint8_t* scales = run.scales + row * run.scale_row_bytes;
  [[maybe_unused]] const uint8_t* in = run.from.data + row * run.from.data_row_bytes;
  if constexpr (kFrom == Codec::kMxfp4 && kToNvfp4<kTo>) {
    const uint8_t byte = run.from.scales[row * run.from.scale_row_bytes + col / kMxGroup];
    const uint8_t largest = params.global.largest_exponent;
    if (!params.global.exact || byte > largest || largest - byte > kNvfp4ExactSpan) return false;
    Words<2> words;
    words.w[0] = LoadWords<1>(in + col / 2).w[0];
    words.w[1] = LoadWords<1>(in + col / 2 + 4).w[0];
    StoreWords(codes + col / 2, words);
    scales[col / kNvfp4Group] = Nvfp4ExactScale(byte, largest);
    ++tally->exact_blocks;
    return true;
  } else if constexpr (kFrom == Codec::kFp8Block && kTo == GroupTarget::kMxfp8) {
    uint8_t byte;
    float unused;
    const uint32_t block = BlockOf(run.from, col);
    const float scale = BlockScale(run.from, block);
    if (block != BlockOf(run.from, col + kMxGroup - 1)) return false;
    if (!Fp8ScaleAsE8m0(scale, &byte) || !FastFactorFp8(scale, &unused)) return false;
    Words<2> words[4];
    bool ordinary = true;
    MIMO_UNROLL
    for (int i = 0; i < 4; ++i) {
      words[i] = LoadWords<2>(in + col + static_cast<uint64_t>(i) * 8);
      ordinary = ordinary && IsOrdinary<Codec::kFp8Block>(words[i]);
    }
    if (!ordinary) return false;
    MIMO_UNROLL
    for (int i = 0; i < 4; ++i) StoreWords(codes + col + static_cast<uint64_t>(i) * 8, words[i]);
    scales[col / kMxGroup] = byte;
    ++tally->exact_blocks;
    return true;
  } else {
    return false;
  }
}

template <Codec kFrom, GroupTarget kTo>
MIMO_HD inline void EncodeGroup(const DeviceRun& run, const EncodeParams& params, uint64_t row, uint64_t col,
                                Tally* tally) {
  if (MoveGroupQuickly<kFrom, kTo>(run, params, row, col, tally)) return;
  if (EncodeGroupQuickly<kFrom, kTo>(run, params, row, col, tally)) return;
  EncodeGroupByDefinition<kTo>(run, params, row, col, tally);
}

// ---- a tile

constexpr uint64_t kEncodeTileRows = 8;  // per line of threads

inline uint64_t EncodeTileRows(const DeviceRun& run) {
  return kThreads / run.from.lanes * kEncodeTileRows;
}

// Tiles of whole groups. `from` is complete but for lanes and tiles.
inline uint64_t ShapeGroupTiles(uint64_t group, DeviceRun* run) {
  const uint64_t groups = run->from.cols / group;
  run->from.lanes = static_cast<uint32_t>(groups < kThreads ? groups : kThreads);
  run->from.tiles_across = (groups + run->from.lanes - 1) / run->from.lanes;
  return (run->from.rows + EncodeTileRows(*run) - 1) / EncodeTileRows(*run) * run->from.tiles_across;
}

// Whether the pointers of a run allow vector loads and stores of whole groups.
inline bool GroupsAligned(const DeviceRun& run, GroupTarget to) {
  const uint64_t code_bytes = to == GroupTarget::kMxfp4 || to == GroupTarget::kMxfp8 ? 16 : 8;
  const uint64_t load_bytes = run.from.codec == Codec::kFp8Block ? 16 : LoadAlignment(run.from.codec);
  return IsMultiple(run.from.data, run.from.data_row_bytes, load_bytes) &&
         IsMultiple(run.codes, run.code_row_bytes, code_bytes);
}

// `thread` of a block of kThreads.
template <Codec kFrom, GroupTarget kTo>
MIMO_HD inline void EncodeTile(const DeviceRun& run, const EncodeParams& params, uint64_t tile, uint32_t thread,
                               Tally* tally) {
  const uint32_t lanes = run.from.lanes;
  const uint32_t lines = kThreads / lanes;
  const uint32_t line = thread / lanes;
  const uint64_t col = (tile % run.from.tiles_across * lanes + thread % lanes) * kGroup<kTo>;
  if (line >= lines || col >= run.from.cols) return;
  const uint64_t first = tile / run.from.tiles_across * lines * kEncodeTileRows;
  const uint64_t stop = first + lines * kEncodeTileRows;
  const uint64_t end = stop < run.from.rows ? stop : run.from.rows;
  for (uint64_t row = first + line; row < end; row += lines) EncodeGroup<kFrom, kTo>(run, params, row, col, tally);
}

}  // namespace mimo::kernels::cuda
