// AVX2 + F16C. Tails of runs go to the portable functions.
#include "kernels/cpu/kernel_table.h"

#ifdef MIMO_X86
#include <immintrin.h>

namespace mimo::kernels {
namespace {

__m256i Load(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
__m128i LoadHalf(const uint8_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}

template <bool kStream>
void Store(uint8_t* p, __m256i v) {
  if constexpr (kStream) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), v);
  } else {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
  }
}

bool Aligned(const uint8_t* p) {
  return reinterpret_cast<uintptr_t>(p) % 32 == 0;
}

// Runs body<true> when the caller wants streaming stores and the run starts where they are possible.
#define MIMO_STREAM_OR_NOT(body, ...) (stream && Aligned(out) ? body<true>(__VA_ARGS__) : body<false>(__VA_ARGS__))

int Popcount(int mask) {
  return __builtin_popcount(static_cast<unsigned>(mask));
}

// ---- N: to FP32

// Counts NaN and infinity among 8 FP32 and makes NaN canonical. Usually there is neither: one compare and one branch.
__m256i Sift(__m256i bits, Counts* counts) {
  const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7FFFFFFF));
  const __m256i odd = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7F7FFFFF));
  if (_mm256_testz_si256(odd, odd)) [[likely]] {
    return bits;
  }
  const __m256i nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7F800000));
  const int nans = Popcount(_mm256_movemask_ps(_mm256_castsi256_ps(nan)));
  counts->nans += static_cast<uint64_t>(nans);
  counts->infinities += static_cast<uint64_t>(Popcount(_mm256_movemask_ps(_mm256_castsi256_ps(odd))) - nans);
  const __m256i canonical = _mm256_or_si256(_mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(kFp32Sign))),
                                            _mm256_set1_epi32(static_cast<int>(kFp32Nan)));
  return _mm256_blendv_epi8(bits, canonical, nan);
}

template <Codec kFrom, bool kStream>
Counts DecodeRun(const uint8_t* in, size_t n, uint8_t* out) {
  Counts counts;
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256i bits;
    if constexpr (kFrom == Codec::kFp32) {
      bits = Load(in + 4 * i);
    } else if constexpr (kFrom == Codec::kFp16) {
      bits = _mm256_castps_si256(_mm256_cvtph_ps(LoadHalf(in + 2 * i)));
    } else {
      bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(LoadHalf(in + 2 * i)), 16);
    }
    Store<kStream>(out + 4 * i, Sift(bits, &counts));
  }
  const Kernels& portable = PortableKernels();
  const auto rest = kFrom == Codec::kFp32   ? portable.decode_fp32
                    : kFrom == Codec::kFp16 ? portable.decode_fp16
                                            : portable.decode_bf16;
  return counts += rest(in + i * (kFrom == Codec::kFp32 ? 4 : 2), n - i, out + 4 * i, false);
}

template <Codec kFrom>
Counts Decode(const uint8_t* in, size_t n, uint8_t* out, bool stream) {
  return stream && Aligned(out) ? DecodeRun<kFrom, true>(in, n, out) : DecodeRun<kFrom, false>(in, n, out);
}

// E4M3 bits shifted into FP16 read as value * 2^-8, subnormals included; 256 restores them exactly, then the scale
// rounds once.
template <bool kStream>
uint64_t DecodeFp8Run(const uint8_t* codes, size_t n, float scale, uint8_t* out) {
  uint64_t nans = 0;
  const __m256 factor = _mm256_set1_ps(scale);
  const __m256i nan_bits = _mm256_set1_epi32(static_cast<int>(kFp32Nan ^ (FloatBits(scale) & kFp32Sign)));
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m128i code = LoadHalf(codes + i);
    const __m256i wide = _mm256_slli_epi16(_mm256_cvtepi8_epi16(code), 7);
    const __m256i half = _mm256_and_si256(wide, _mm256_set1_epi16(static_cast<int16_t>(0xBF80)));
    const __m128i nan = _mm_cmpeq_epi8(_mm_and_si128(code, _mm_set1_epi8(0x7F)), _mm_set1_epi8(kE4m3Nan));
    const int mask = _mm_movemask_epi8(nan);
    nans += static_cast<uint64_t>(Popcount(mask));
    __m256 low = _mm256_cvtph_ps(_mm256_castsi256_si128(half));
    __m256 high = _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1));
    low = _mm256_mul_ps(_mm256_mul_ps(low, _mm256_set1_ps(256.0f)), factor);
    high = _mm256_mul_ps(_mm256_mul_ps(high, _mm256_set1_ps(256.0f)), factor);
    if (mask != 0) [[unlikely]] {
      const auto patch = [&](__m256 value, __m128i where, __m128i code8) {
        const __m256i sign = _mm256_slli_epi32(_mm256_cvtepu8_epi32(_mm_and_si128(code8, _mm_set1_epi8(-128))), 24);
        const __m256i bits = _mm256_xor_si256(sign, nan_bits);
        return _mm256_castsi256_ps(_mm256_blendv_epi8(_mm256_castps_si256(value), bits, _mm256_cvtepi8_epi32(where)));
      };
      low = patch(low, nan, code);
      high = patch(high, _mm_srli_si128(nan, 8), _mm_srli_si128(code, 8));
    }
    Store<kStream>(out + 4 * i, _mm256_castps_si256(low));
    Store<kStream>(out + 4 * i + 32, _mm256_castps_si256(high));
  }
  return nans + PortableKernels().decode_fp8(codes + i, n - i, scale, out + 4 * i, false);
}

uint64_t DecodeFp8(const uint8_t* codes, size_t n, float scale, uint8_t* out, bool stream) {
  if (!IsFinite(scale)) return PortableKernels().decode_fp8(codes, n, scale, out, stream);
  return MIMO_STREAM_OR_NOT(DecodeFp8Run, codes, n, scale, out);
}

// Nibbles of 16 packed bytes in element order, one per byte: eight in the low half of each part.
struct Nibbles {
  __m128i parts[4];
};
Nibbles Unpack(const uint8_t* packed) {
  const __m128i bytes = LoadHalf(packed);
  const __m128i low = _mm_and_si128(bytes, _mm_set1_epi8(15));
  const __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
  const __m128i first = _mm_unpacklo_epi8(low, high), second = _mm_unpackhi_epi8(low, high);
  return {{first, _mm_srli_si128(first, 8), second, _mm_srli_si128(second, 8)}};
}

// The bits of eight nibbles; `values`: of nibbles 0 to 7.
__m256i Look(__m256 values, __m128i nibbles) {
  const __m256i index = _mm256_cvtepu8_epi32(nibbles);  // the permutation looks at three bits only
  const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(index, _mm256_set1_epi32(8)), 28);
  return _mm256_xor_si256(_mm256_castps_si256(_mm256_permutevar8x32_ps(values, index)), sign);
}

template <bool kStream>
void DecodeMxfp4Run(const uint8_t* packed, const uint8_t* scales, size_t n, uint8_t* out) {
  const __m256 magnitudes = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
  size_t i = 0;
  for (; i + kMxfp4Group <= n; i += kMxfp4Group) {
    const uint8_t byte = scales[i / kMxfp4Group];
    if (byte == kE8m0Nan) [[unlikely]] {
      PortableKernels().decode_mxfp4(packed + i / 2, scales + i / kMxfp4Group, kMxfp4Group, out + 4 * i, false);
      continue;
    }
    const __m256 values = _mm256_mul_ps(magnitudes, _mm256_set1_ps(E8m0ToFloat(byte)));
    const Nibbles nibbles = Unpack(packed + i / 2);
    for (size_t part = 0; part < 4; ++part) {
      Store<kStream>(out + 4 * i + 32 * part, Look(values, nibbles.parts[part]));
    }
  }
  PortableKernels().decode_mxfp4(packed + i / 2, scales + i / kMxfp4Group, n - i, out + 4 * i, false);
}

void DecodeMxfp4(const uint8_t* packed, const uint8_t* scales, size_t n, uint8_t* out, bool stream) {
  MIMO_STREAM_OR_NOT(DecodeMxfp4Run, packed, scales, n, out);
}

template <bool kStream>
void DecodeNvfp4Run(const uint8_t* packed, const float* multipliers, size_t n, uint8_t* out) {
  const __m256 magnitudes = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
  size_t i = 0;
  for (; i + 2 * kNvfp4Group <= n; i += 2 * kNvfp4Group) {
    const float* pair = multipliers + i / kNvfp4Group;
    if (!IsFinite(pair[0]) || !IsFinite(pair[1])) [[unlikely]] {
      PortableKernels().decode_nvfp4(packed + i / 2, pair, 2 * kNvfp4Group, out + 4 * i, false);
      continue;
    }
    const Nibbles nibbles = Unpack(packed + i / 2);
    for (size_t part = 0; part < 4; ++part) {
      const __m256 values = _mm256_mul_ps(magnitudes, _mm256_set1_ps(pair[part / 2]));
      Store<kStream>(out + 4 * i + 32 * part, Look(values, nibbles.parts[part]));
    }
  }
  PortableKernels().decode_nvfp4(packed + i / 2, multipliers + i / kNvfp4Group, n - i, out + 4 * i, false);
}

void DecodeNvfp4(const uint8_t* packed, const float* multipliers, size_t n, uint8_t* out, bool stream) {
  MIMO_STREAM_OR_NOT(DecodeNvfp4Run, packed, multipliers, n, out);
}

// ---- M: from FP32

// 8 FP32 -> BF16 in the low halves.
__m256i RoundBf16(__m256 value) {
  const __m256i bits = _mm256_castps_si256(value);
  const __m256i upper = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
  const __m256i canonical =
      _mm256_or_si256(_mm256_and_si256(upper, _mm256_set1_epi32(0x8000)), _mm256_set1_epi32(kBf16Nan));
  return _mm256_blendv_epi8(rounded, canonical, nan);
}

uint64_t CountEqual16(__m256i values, uint16_t wanted) {
  const __m256i magnitude = _mm256_and_si256(values, _mm256_set1_epi16(0x7FFF));
  const __m256i equal = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(static_cast<int16_t>(wanted)));
  return static_cast<uint64_t>(Popcount(_mm256_movemask_epi8(equal)) / 2);
}

template <bool kStream>
uint64_t EncodeBf16Run(const float* in, size_t n, uint8_t* out) {
  uint64_t infinities = 0;
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m256i low = RoundBf16(_mm256_loadu_ps(in + i));
    const __m256i high = RoundBf16(_mm256_loadu_ps(in + i + 8));
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xD8);
    infinities += CountEqual16(packed, kBf16Inf);
    Store<kStream>(out + 2 * i, packed);
  }
  return infinities + PortableKernels().encode_bf16(in + i, n - i, out + 2 * i, false);
}

template <bool kStream>
uint64_t EncodeFp16Run(const float* in, size_t n, uint8_t* out) {
  uint64_t infinities = 0;
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m128i low = _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m128i high = _mm256_cvtps_ph(_mm256_loadu_ps(in + i + 8), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256i packed = _mm256_set_m128i(high, low);
    infinities += CountEqual16(packed, kFp16Inf);
    const __m256i magnitude = _mm256_and_si256(packed, _mm256_set1_epi16(0x7FFF));
    const __m256i nan = _mm256_cmpgt_epi16(magnitude, _mm256_set1_epi16(kFp16Inf));
    const __m256i sign = _mm256_andnot_si256(_mm256_set1_epi16(0x7FFF), packed);
    packed = _mm256_blendv_epi8(packed, _mm256_or_si256(sign, _mm256_set1_epi16(kFp16Nan)), nan);
    Store<kStream>(out + 2 * i, packed);
  }
  return infinities + PortableKernels().encode_fp16(in + i, n - i, out + 2 * i, false);
}

uint64_t EncodeBf16(const float* in, size_t n, uint8_t* out, bool stream) {
  return MIMO_STREAM_OR_NOT(EncodeBf16Run, in, n, out);
}
uint64_t EncodeFp16(const float* in, size_t n, uint8_t* out, bool stream) {
  return MIMO_STREAM_OR_NOT(EncodeFp16Run, in, n, out);
}

// ---- fused: moves

template <bool kStream>
Counts Move16Run(const uint8_t* in, size_t n, uint8_t* out, uint16_t infinity) {
  Counts counts;
  const __m256i inf = _mm256_set1_epi16(static_cast<int16_t>(infinity));
  const __m256i below = _mm256_set1_epi16(static_cast<int16_t>(infinity - 1));
  size_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m256i a = Load(in + 2 * i);
    const __m256i b = Load(in + 2 * i + 32);
    const __m256i mask = _mm256_set1_epi16(0x7FFF);
    const __m256i odd_a = _mm256_cmpgt_epi16(_mm256_and_si256(a, mask), below);
    const __m256i odd_b = _mm256_cmpgt_epi16(_mm256_and_si256(b, mask), below);
    const __m256i odd = _mm256_or_si256(odd_a, odd_b);
    if (!_mm256_testz_si256(odd, odd)) [[unlikely]] {
      const uint64_t infinities = CountEqual16(a, infinity) + CountEqual16(b, infinity);
      const int nans = Popcount(_mm256_movemask_epi8(_mm256_cmpgt_epi16(_mm256_and_si256(a, mask), inf))) +
                       Popcount(_mm256_movemask_epi8(_mm256_cmpgt_epi16(_mm256_and_si256(b, mask), inf)));
      counts.infinities += infinities;
      counts.nans += static_cast<uint64_t>(nans / 2);
    }
    Store<kStream>(out + 2 * i, a);
    Store<kStream>(out + 2 * i + 32, b);
  }
  return counts += PortableKernels().move16(in + 2 * i, n - i, out + 2 * i, infinity, false);
}

Counts Move16(const uint8_t* in, size_t n, uint8_t* out, uint16_t infinity, bool stream) {
  return MIMO_STREAM_OR_NOT(Move16Run, in, n, out, infinity);
}

template <bool kStream>
Counts Move32Run(const uint8_t* in, size_t n, uint8_t* out) {
  Counts counts;
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256i bits = Load(in + 4 * i);
    Sift(bits, &counts);  // counts; a move keeps the bits
    Store<kStream>(out + 4 * i, bits);
  }
  return counts += PortableKernels().move32(in + 4 * i, n - i, out + 4 * i, false);
}

Counts Move32(const uint8_t* in, size_t n, uint8_t* out, bool stream) {
  return MIMO_STREAM_OR_NOT(Move32Run, in, n, out);
}

// ---- fused: block FP8 -> BF16

// While all products are normal in FP32 and BF16, scaling by 2 commutes with both roundings, so
//   bits(e, m) = bits(1, m) + (e - 1) * 2^7  for e >= 1.
// Sixteen entries then replace the table of 128: [m] = bits(1, m) - 2^7, and [8 + m] = bits(0, m) for the subnormal
// codes.
bool Compact(float scale) {
  return scale >= 0x1p-118f && scale <= 0x1p118f;  // least product 2^-6 * scale, greatest 448 * scale
}

void Fp8Prepare(float scale, Codec target, Fp8Slot* slot) {
  if (target != Codec::kBf16 || !Compact(scale)) {
    PortableKernels().fp8_prepare(scale, target, slot);
    return;
  }
  alignas(16) static constexpr uint8_t kCodes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  alignas(32) float values[16];
  alignas(32) uint8_t bits[32];
  DecodeFp8Run<false>(kCodes, 16, scale, reinterpret_cast<uint8_t*>(values));
  EncodeBf16Run<false>(values, 16, bits);
  for (size_t m = 0; m < 8; ++m) {
    const uint16_t normal = static_cast<uint16_t>(Load16(bits + 16 + 2 * m) - 0x80);
    slot->table[m] = static_cast<uint8_t>(normal & 0xFF);
    slot->table[8 + m] = bits[2 * m];
    slot->table[16 + m] = static_cast<uint8_t>(normal >> 8);
    slot->table[24 + m] = bits[2 * m + 1];
  }
  slot->compact = true;
}

uint16_t CompactBits(const uint8_t* table, uint8_t code) {
  if (E4m3IsNan(code)) return static_cast<uint16_t>((code & 0x80) << 8 | kBf16Nan);
  const unsigned index = (code & 7u) | ((code & 0x78) == 0 ? 8u : 0u);
  const unsigned bits = table[index] | static_cast<unsigned>(table[16 + index]) << 8;
  return static_cast<uint16_t>((bits + ((code & 0x78u) << 4)) | (code & 0x80u) << 8);
}

// One block of one row. Returns NaN codes.
template <bool kStream>
uint64_t CompactRun(const uint8_t* codes, size_t n, const uint8_t* table, uint8_t* out) {
  const __m256i low_table = _mm256_broadcastsi128_si256(LoadHalf(table));
  const __m256i high_table = _mm256_broadcastsi128_si256(LoadHalf(table + 16));
  const __m256i zero = _mm256_setzero_si256();
  uint64_t nans = 0;
  size_t i = 0;
  for (; i + 32 <= n; i += 32) {
    // Quarters 0 2 1 3, so that the unpacks, which work within halves, give codes 0..15 and 16..31.
    const __m256i code = _mm256_permute4x64_epi64(Load(codes + i), 0xD8);
    const __m256i magnitude = _mm256_and_si256(code, _mm256_set1_epi8(0x7F));
    const __m256i subnormal = _mm256_cmpgt_epi8(_mm256_set1_epi8(8), magnitude);
    const __m256i index =
        _mm256_or_si256(_mm256_and_si256(code, _mm256_set1_epi8(7)), _mm256_and_si256(subnormal, _mm256_set1_epi8(8)));
    const __m256i low = _mm256_shuffle_epi8(low_table, index);
    const __m256i high = _mm256_shuffle_epi8(high_table, index);
    const __m256i sign_and_exponent = _mm256_set1_epi16(static_cast<int16_t>(0x8780));
    const auto raise = [&](__m256i base, __m256i shifted) {
      return _mm256_add_epi16(base, _mm256_and_si256(_mm256_srai_epi16(shifted, 4), sign_and_exponent));
    };
    Store<kStream>(out + 2 * i, raise(_mm256_unpacklo_epi8(low, high), _mm256_unpacklo_epi8(zero, code)));
    Store<kStream>(out + 2 * i + 32, raise(_mm256_unpackhi_epi8(low, high), _mm256_unpackhi_epi8(zero, code)));
    const int nan = _mm256_movemask_epi8(_mm256_cmpeq_epi8(magnitude, _mm256_set1_epi8(kE4m3Nan)));
    if (nan != 0) [[unlikely]] {
      nans += static_cast<uint64_t>(Popcount(nan));
      for (size_t j = i; j < i + 32; ++j) Store16(out + 2 * j, CompactBits(table, codes[j]));
    }
  }
  for (; i < n; ++i) {
    nans += E4m3IsNan(codes[i]);
    Store16(out + 2 * i, CompactBits(table, codes[i]));
  }
  return nans;
}

uint64_t Fp8PanelRows(const Fp8Panel& panel) {
  uint64_t nans = 0;
  for (uint64_t row = 0; row < panel.rows; ++row) {
    const uint8_t* codes = panel.codes + row * panel.code_row_bytes;
    uint8_t* row_out = panel.out + row * panel.out_row_bytes;
    for (uint32_t block = 0; block < panel.blocks; ++block) {
      const Fp8Slot& slot = panel.slots[block];
      const uint32_t start = panel.edges[block];
      const uint32_t end = panel.edges[block + 1];
      if (!slot.compact) [[unlikely]] {
        const uint32_t edges[2] = {0, end - start};
        Fp8Panel one = panel;
        one.codes = codes + start;
        one.out = row_out + 2 * size_t{start};
        one.rows = 1;
        one.edges = edges;
        one.slots = &slot;
        one.blocks = 1;
        nans += PortableKernels().fp8_panel(one);
        continue;
      }
      uint8_t* out = row_out + 2 * size_t{start};
      const bool stream = panel.stream;
      nans += MIMO_STREAM_OR_NOT(CompactRun, codes + start, end - start, slot.table, out);
    }
  }
  return nans;
}

// ---- fused: MXFP4 -> 16 bits

template <bool kStream>
void Mxfp4Run(const uint8_t* packed, const uint8_t* scales, size_t n, const Mxfp4Planes& planes, uint8_t* out) {
  // Each packed byte twice (its low nibble is the even element), in the quarters that the unpacks below want: 0 2 | 1
  // 3.
  const __m256i twice = _mm256_setr_epi8(0, 0, 1, 1, 2, 2, 3, 3, 8, 8, 9, 9, 10, 10, 11, 11, 4, 4, 5, 5, 6, 6, 7, 7, 12,
                                         12, 13, 13, 14, 14, 15, 15);
  size_t i = 0;
  for (; i + kMxfp4Group <= n; i += kMxfp4Group) {
    const uint8_t* plane = planes.bytes[scales[i / kMxfp4Group]];
    const __m256i low_table = _mm256_broadcastsi128_si256(LoadHalf(plane));
    const __m256i high_table = _mm256_broadcastsi128_si256(LoadHalf(plane + 16));
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(LoadHalf(packed + i / 2)), twice);
    const __m256i index = _mm256_or_si256(_mm256_and_si256(bytes, _mm256_set1_epi16(0x000F)),
                                          _mm256_and_si256(_mm256_srli_epi16(bytes, 4), _mm256_set1_epi16(0x0F00)));
    const __m256i low = _mm256_shuffle_epi8(low_table, index);
    const __m256i high = _mm256_shuffle_epi8(high_table, index);
    Store<kStream>(out + 2 * i, _mm256_unpacklo_epi8(low, high));
    Store<kStream>(out + 2 * i + 32, _mm256_unpackhi_epi8(low, high));
  }
  PortableKernels().mxfp4_row(packed + i / 2, scales + i / kMxfp4Group, n - i, planes, out + 2 * i, false);
}

void Mxfp4Row(const uint8_t* packed, const uint8_t* scales, size_t n, const Mxfp4Planes& planes, uint8_t* out,
              bool stream) {
  MIMO_STREAM_OR_NOT(Mxfp4Run, packed, scales, n, planes, out);
}

#undef MIMO_STREAM_OR_NOT

void Fence() {
  _mm_sfence();
}

}  // namespace

const Kernels& Avx2Kernels() {
  static constexpr Kernels kernels = {
      .decode_fp32 = Decode<Codec::kFp32>,
      .decode_fp16 = Decode<Codec::kFp16>,
      .decode_bf16 = Decode<Codec::kBf16>,
      .decode_fp8 = DecodeFp8,
      .decode_mxfp4 = DecodeMxfp4,
      .decode_nvfp4 = DecodeNvfp4,
      .encode_fp16 = EncodeFp16,
      .encode_bf16 = EncodeBf16,
      .move16 = Move16,
      .move32 = Move32,
      .fp8_prepare = Fp8Prepare,
      .fp8_panel = Fp8PanelRows,
      .mxfp4_row = Mxfp4Row,
      .fp8_panel_fp16 = false,
      .fence = Fence,
  };
  return kernels;
}

}  // namespace mimo::kernels
#endif  // MIMO_X86
