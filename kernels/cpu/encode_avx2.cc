// The encoders with AVX2: a group of 16 is two vectors, one of 32 is four. Groups with NaN or infinities go to the
// portable functions: they are errors anyway.
#include "kernels/cpu/encode_table.h"

#ifdef MIMO_X86
#include <immintrin.h>

#include <algorithm>

namespace mimo::kernels {
namespace {

__m256 Abs(__m256 x) {
  return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

bool AllFinite(__m256 magnitudes) {  // of the largest of several: NaN bits are the largest of all
  const __m256i odd = _mm256_cmpgt_epi32(_mm256_castps_si256(magnitudes), _mm256_set1_epi32(0x7F7FFFFF));
  return _mm256_testz_si256(odd, odd) != 0;
}

// Magnitudes compare as integers, which keeps NaN on top.
__m256 MaxBits(__m256 a, __m256 b) {
  return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}

float HorizontalMax(__m256 v) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  half = _mm_max_ss(half, _mm_movehdup_ps(half));
  return _mm_cvtss_f32(half);
}

// ---- E2M1 codes of 8 scaled values, as integers with the sign in bit 3

// The magnitude alone.
__m256i E2m1Magnitudes(__m256 scaled, bool toward_zero) {
  const __m256 x = Abs(scaled);
  const auto above = [&](float bound) {
    return _mm256_castps_si256(_mm256_cmp_ps(x, _mm256_set1_ps(bound), _CMP_NLE_UQ));
  };
  const auto at_least = [&](float bound) {
    return _mm256_castps_si256(_mm256_cmp_ps(x, _mm256_set1_ps(bound), _CMP_NLT_UQ));
  };
  // Where ties to even go up.
  const auto from = [&](float bound) { return toward_zero ? above(bound) : at_least(bound); };
  const __m256i four =
      _mm256_add_epi32(_mm256_add_epi32(above(0.25f), above(1.25f)), _mm256_add_epi32(above(2.5f), above(5.0f)));
  const __m256i three = _mm256_add_epi32(_mm256_add_epi32(from(0.75f), from(1.75f)), from(3.5f));
  return _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_add_epi32(four, three));
}

__m256i E2m1Codes(__m256 scaled, bool toward_zero) {
  const __m256i negative = _mm256_castps_si256(_mm256_cmp_ps(scaled, _mm256_setzero_ps(), _CMP_LT_OQ));
  return _mm256_or_si256(E2m1Magnitudes(scaled, toward_zero), _mm256_and_si256(negative, _mm256_set1_epi32(8)));
}

// E2M1 codes that keep the sign of zeros.
__m256i E2m1SignedCodes(__m256 scaled, bool toward_zero) {
  const __m256i sign = _mm256_srli_epi32(_mm256_castps_si256(scaled), 31);
  return _mm256_or_si256(E2m1Magnitudes(scaled, toward_zero), _mm256_slli_epi32(sign, 3));
}

// 16 codes -> 8 bytes.
void StorePacked(__m256i first, __m256i second, uint8_t* out) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(first, second), 0xD8);
  const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  const __m128i pairs = _mm_maddubs_epi16(bytes, _mm_set1_epi16(0x1001));  // even + 16 * odd
  const __m128i packed = _mm_packus_epi16(pairs, pairs);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), packed);
}

// ---- NVFP4

// The magnitudes of a group.
struct Group {
  __m256 low, high;
};

// Nvfp4Miss of 8 elements; multiplier > 0.
__m256 Miss(__m256 magnitudes, __m256 multiplier) {
  const __m256 values = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
  const __m256i codes = E2m1Codes(_mm256_div_ps(magnitudes, multiplier), false);
  return _mm256_sub_ps(magnitudes, _mm256_mul_ps(_mm256_permutevar8x32_ps(values, codes), multiplier));
}

// Nvfp4Loss.
float Loss(const Group& group, float multiplier) {
  const __m256 m = _mm256_set1_ps(multiplier);
  const __m256 low = Miss(group.low, m);
  const __m256 high = Miss(group.high, m);
  const __m256 eight = _mm256_add_ps(_mm256_mul_ps(low, low), _mm256_mul_ps(high, high));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// Multipliers of all candidates of the sweep, eight at a time; the last two are infinite and never win.
struct SweepTable {
  alignas(32) float multipliers[128];
  bool usable;  // none underflowed to zero
};

SweepTable MakeSweep(float tensor_multiplier) {
  SweepTable table;
  for (int code = kNvfp4SweepFirst; code <= kNvfp4SweepLast; ++code) {
    table.multipliers[code - kNvfp4SweepFirst] = E4m3ToFloat(static_cast<uint8_t>(code)) * tensor_multiplier;
  }
  table.multipliers[126] = table.multipliers[127] = FloatFromBits(kFp32Inf);
  table.usable = table.multipliers[0] > 0;
  return table;
}

// The loss of a candidate is at least the squared miss of any one element, as computed: sums of non-negative floats are
// monotone. So candidates whose largest element alone misses by more than the loss of a good candidate are passed over,
// eight at a time, and the winner is that of trying all.
uint8_t SweepScale(const Group& group, float amax, const Nvfp4Range& range, const SweepTable& table) {
  if (amax == 0) return kNvfp4SweepFirst;  // no candidate loses anything
  const float guess = Loss(group, E4m3ToFloat(Nvfp4MaxScale(amax, range.multiplier)) * range.multiplier);
  const __m256 limit = _mm256_set1_ps(guess);
  const __m256 largest = _mm256_set1_ps(amax);
  Nvfp4Best best;
  for (int first = 0; first < 128; first += 8) {
    const __m256 multipliers = _mm256_load_ps(table.multipliers + first);
    const __m256 values = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
    const __m256i codes = E2m1Codes(_mm256_div_ps(largest, multipliers), false);
    const __m256 value = _mm256_mul_ps(_mm256_permutevar8x32_ps(values, codes), multipliers);
    const __m256 miss = _mm256_sub_ps(largest, value);
    unsigned open = static_cast<unsigned>(
        _mm256_movemask_ps(_mm256_cmp_ps(_mm256_mul_ps(miss, miss), limit, _CMP_LE_OQ)));  // NaN of the padding: closed
    for (; open != 0; open &= open - 1) {
      const int index = first + __builtin_ctz(open);
      best.Consider(static_cast<uint8_t>(index + kNvfp4SweepFirst), Loss(group, table.multipliers[index]));
    }
  }
  return best.scale;
}

template <class CandidateOf>
uint8_t BestScale(const Group& group, const Nvfp4Range& range, int candidates, const CandidateOf& candidate) {
  Nvfp4Best best;
  uint8_t last = 0;  // candidates ascend: equal ones are neighbours
  for (int i = 0; i < candidates; ++i) {
    const uint8_t scale = candidate(i);
    if (best.any && scale == last) continue;
    last = scale;
    best.Consider(scale, Loss(group, E4m3ToFloat(scale) * range.multiplier));
  }
  return best.scale;
}

void Nvfp4(const float* values, size_t groups, ScaleRule rule, const Nvfp4Range& range, uint8_t* codes,
           uint8_t* scales) {
  SweepTable table;
  table.usable = E4m3ToFloat(kNvfp4LeastScale) * range.multiplier > 0 && range.multiplier < 1e30f;
  if (table.usable && rule == ScaleRule::kSweep) table = MakeSweep(range.multiplier);
  for (size_t group = 0; group < groups; ++group, values += kNvfp4Group, codes += kNvfp4Group / 2) {
    const __m256 low = _mm256_loadu_ps(values);
    const __m256 high = _mm256_loadu_ps(values + 8);
    const Group magnitudes{Abs(low), Abs(high)};
    const __m256 largest = MaxBits(magnitudes.low, magnitudes.high);
    if (!table.usable || !AllFinite(largest)) [[unlikely]] {
      PortableEncoders().nvfp4(values, 1, rule, range, codes, scales + group);
      continue;
    }
    const float amax = HorizontalMax(largest);
    uint8_t scale = 0;
    switch (rule) {
      case ScaleRule::kFourOverSix:
        scale = BestScale(magnitudes, range, 2, [&](int i) {
          return Nvfp4CalibratedScale(i == 0 ? amax : amax * 1.5f, range, kFourOverSixNormalization);
        });
        break;
      case ScaleRule::kSweep:
        scale = SweepScale(magnitudes, amax, range, table);
        break;
      case ScaleRule::kMse:
        scale = BestScale(magnitudes, range, kNvfp4MseSteps,
                          [&](int i) { return Nvfp4CalibratedScale(amax * Nvfp4MseFactor(i), range, kE4m3Max); });
        break;
      case ScaleRule::kMax:
      case ScaleRule::kRceil:  // not of NVFP4
      case ScaleRule::kFloor:
      case ScaleRule::kEven:
      case ScaleRule::kCeil:
        scale = Nvfp4MaxScale(amax, range.multiplier);
        break;
    }
    scales[group] = scale;
    const __m256 multiplier = _mm256_set1_ps(Nvfp4Multiplier(scale, range.multiplier, false));
    StorePacked(E2m1Codes(_mm256_div_ps(low, multiplier), false), E2m1Codes(_mm256_div_ps(high, multiplier), false),
                codes);
  }
}

// ---- MX

bool LoadMxGroup(const float* values, __m256 (&parts)[4], float* amax) {
  __m256 largest = _mm256_setzero_ps();
  for (int i = 0; i < 4; ++i) {
    parts[i] = _mm256_loadu_ps(values + 8 * i);
    largest = MaxBits(largest, Abs(parts[i]));
  }
  *amax = HorizontalMax(largest);
  return AllFinite(largest);
}

uint64_t Mxfp4(const float* values, size_t groups, ScaleRule rule, bool toward_zero, const uint8_t* keep,
               uint8_t* codes, uint8_t* scales) {
  uint64_t kept = 0;
  for (size_t group = 0; group < groups; ++group, values += kMxGroup, codes += kMxGroup / 2) {
    __m256 parts[4];
    float amax;
    if (!LoadMxGroup(values, parts, &amax)) [[unlikely]] {
      PortableEncoders().mxfp4(values, 1, rule, toward_zero, nullptr, codes, scales + group);  // keeps no scale
      continue;
    }
    const bool fits = keep != nullptr && Mxfp4ScaleFits(amax, keep[group]);
    const uint8_t byte = fits ? keep[group] : MxGroupScale(rule, amax, MxElement::kE2m1);
    scales[group] = byte;
    const __m256 inverse = _mm256_set1_ps(MxInverse(byte));
    if (fits) {
      ++kept;
      for (int half = 0; half < 2; ++half) {
        StorePacked(E2m1SignedCodes(_mm256_mul_ps(parts[2 * half], inverse), toward_zero),
                    E2m1SignedCodes(_mm256_mul_ps(parts[2 * half + 1], inverse), toward_zero), codes + 8 * half);
      }
      continue;
    }
    for (int half = 0; half < 2; ++half) {
      StorePacked(E2m1Codes(_mm256_mul_ps(parts[2 * half], inverse), toward_zero),
                  E2m1Codes(_mm256_mul_ps(parts[2 * half + 1], inverse), toward_zero), codes + 8 * half);
    }
  }
  return kept;
}

// 8 scaled values, not NaN -> E4M3 codes as integers, saturating.
__m256i E4m3Codes(__m256 scaled) {
  const __m256i bits = _mm256_castps_si256(scaled);
  const __m256i sign = _mm256_srli_epi32(_mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(kFp32Sign))), 24);
  // Clamped first: what is above 448 rounds to 448 or is saturated to it.
  const __m256 x = _mm256_min_ps(Abs(scaled), _mm256_set1_ps(kE4m3Max));
  const __m256i magnitude = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(magnitude, 20), _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(magnitude, _mm256_set1_epi32(0x7FFFF)), odd), 20);
  const __m256i normal = _mm256_sub_epi32(rounded, _mm256_set1_epi32(120 << 3));
  const __m256 shift = _mm256_set1_ps(16384.0f);  // the sum's last place is 2^-9
  const __m256i small = _mm256_sub_epi32(_mm256_castps_si256(_mm256_add_ps(x, shift)), _mm256_castps_si256(shift));
  const __m256i is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(121 << 23), magnitude);
  return _mm256_or_si256(_mm256_blendv_epi8(normal, small, is_small), sign);
}

void StoreBytes(__m256i a, __m256i b, __m256i c, __m256i d, uint8_t* out) {
  const __m256i words = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permutevar8x32_epi32(words, order));
}

void Mxfp8(const float* values, size_t groups, ScaleRule rule, uint8_t* codes, uint8_t* scales) {
  for (size_t group = 0; group < groups; ++group, values += kMxGroup, codes += kMxGroup) {
    __m256 parts[4];
    float amax;
    if (!LoadMxGroup(values, parts, &amax)) [[unlikely]] {
      PortableEncoders().mxfp8(values, 1, rule, codes, scales + group);
      continue;
    }
    const uint8_t byte = MxGroupScale(rule, amax, MxElement::kE4m3);
    scales[group] = byte;
    const __m256 inverse = _mm256_set1_ps(MxInverse(byte));
    for (__m256& part : parts) part = _mm256_mul_ps(part, inverse);
    StoreBytes(E4m3Codes(parts[0]), E4m3Codes(parts[1]), E4m3Codes(parts[2]), E4m3Codes(parts[3]), codes);
  }
}

void Fp8(const float* values, size_t n, float scale, uint8_t* codes) {
  const __m256 divisor = _mm256_set1_ps(scale);
  size_t i = 0;
  for (; i + 32 <= n; i += 32) {
    __m256 parts[4];
    float amax;
    if (!LoadMxGroup(values + i, parts, &amax)) [[unlikely]] {
      PortableEncoders().fp8(values + i, 32, scale, codes + i);
      continue;
    }
    for (__m256& part : parts) part = _mm256_div_ps(part, divisor);
    StoreBytes(E4m3Codes(parts[0]), E4m3Codes(parts[1]), E4m3Codes(parts[2]), E4m3Codes(parts[3]), codes + i);
  }
  PortableEncoders().fp8(values + i, n - i, scale, codes + i);
}

// ---- bulk loops

uint64_t RoundBf16(float* values, size_t n) {
  uint64_t infinities = 0;
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(values + i));
    const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7FFFFFFF));
    const __m256i large = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7F7F7FFF));
    if (!_mm256_testz_si256(large, large)) [[unlikely]] {
      infinities += PortableEncoders().round_bf16(values + i, 8);
      continue;
    }
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
    const __m256i rounded = _mm256_and_si256(sum, _mm256_set1_epi32(static_cast<int>(0xFFFF0000u)));
    _mm256_storeu_ps(values + i, _mm256_castsi256_ps(rounded));
  }
  return infinities + PortableEncoders().round_bf16(values + i, n - i);
}

float Amax(const float* values, size_t n) {
  __m256i largest = _mm256_setzero_si256();
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256i magnitude = _mm256_castps_si256(Abs(_mm256_loadu_ps(values + i)));
    const __m256i odd = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7F7FFFFF));
    largest = _mm256_max_epi32(largest, _mm256_andnot_si256(odd, magnitude));
  }
  return std::max(HorizontalMax(_mm256_castsi256_ps(largest)), PortableEncoders().amax(values + i, n - i));
}

SegmentErrors Errors(const float* x, const float* y, size_t n) {
  const __m256d zero = _mm256_setzero_pd();
  const __m256d magnitude = _mm256_castsi256_pd(_mm256_set1_epi64x(0x7FFFFFFFFFFFFFFF));
  struct Four {
    __m256d error, source, target, product;
  } lanes[2] = {{zero, zero, zero, zero}, {zero, zero, zero, zero}};
  __m256d max_error = zero;
  __m256 amax = _mm256_setzero_ps();
  SegmentErrors total;
  const auto add = [&](Four* four, __m128 source4, __m128 target4) {
    const __m256d source = _mm256_cvtps_pd(source4);
    const __m256d target = _mm256_cvtps_pd(target4);
    const __m256d difference = _mm256_sub_pd(target, source);
    four->error = _mm256_add_pd(four->error, _mm256_mul_pd(difference, difference));
    four->source = _mm256_add_pd(four->source, _mm256_mul_pd(source, source));
    four->target = _mm256_add_pd(four->target, _mm256_mul_pd(target, target));
    four->product = _mm256_add_pd(four->product, _mm256_mul_pd(source, target));
    max_error = _mm256_max_pd(max_error, _mm256_and_pd(difference, magnitude));
  };
  const auto eight = [&](__m256 source, __m256 target) {
    const __m256i odd = _mm256_cmpgt_epi32(_mm256_castps_si256(Abs(source)), _mm256_set1_epi32(0x7F7FFFFF));
    const __m256 finite_source = _mm256_andnot_ps(_mm256_castsi256_ps(odd), source);  // zeros add nothing
    const __m256 finite_target = _mm256_andnot_ps(_mm256_castsi256_ps(odd), target);
    total.elements -=
        static_cast<uint64_t>(__builtin_popcount(static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(odd)))));
    amax = _mm256_max_ps(amax, Abs(finite_source));
    add(&lanes[0], _mm256_castps256_ps128(finite_source), _mm256_castps256_ps128(finite_target));
    add(&lanes[1], _mm256_extractf128_ps(finite_source, 1), _mm256_extractf128_ps(finite_target, 1));
  };
  size_t i = 0;
  for (; i + 8 <= n; i += 8) eight(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i));
  if (i < n) {  // zeros beyond the end
    alignas(32) float rest[2][8] = {};
    std::copy(x + i, x + n, rest[0]);
    std::copy(y + i, y + n, rest[1]);
    eight(_mm256_load_ps(rest[0]), _mm256_load_ps(rest[1]));
  }
  total.elements += n;
  ErrorLane each[kStatLanes];
  for (size_t half = 0; half < 2; ++half) {
    alignas(32) double v[4][4];
    _mm256_store_pd(v[0], lanes[half].error);
    _mm256_store_pd(v[1], lanes[half].source);
    _mm256_store_pd(v[2], lanes[half].target);
    _mm256_store_pd(v[3], lanes[half].product);
    for (size_t lane = 0; lane < 4; ++lane) {
      each[4 * half + lane].error = v[0][lane];
      each[4 * half + lane].source = v[1][lane];
      each[4 * half + lane].target = v[2][lane];
      each[4 * half + lane].product = v[3][lane];
    }
  }
  FoldLanes(each);
  total.sums = each[0];
  alignas(32) double largest[4];
  _mm256_store_pd(largest, max_error);
  total.max_error = std::max(std::max(largest[0], largest[1]), std::max(largest[2], largest[3]));
  total.amax = HorizontalMax(amax);
  return total;
}

uint64_t Beyond(const float* values, size_t n, float divisor, float limit) {
  const __m256 by = _mm256_set1_ps(divisor);
  const __m256 most = _mm256_set1_ps(limit);
  uint64_t count = 0;
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 over = _mm256_cmp_ps(_mm256_div_ps(Abs(_mm256_loadu_ps(values + i)), by), most, _CMP_GT_OQ);
    count += static_cast<uint64_t>(__builtin_popcount(static_cast<unsigned>(_mm256_movemask_ps(over))));
  }
  return i == n ? count : count + PortableEncoders().beyond(values + i, n - i, divisor, limit);
}

void ColumnMax(const uint8_t* row, size_t n, uint8_t* largest) {
  const __m256i mask = _mm256_set1_epi8(0x7F);
  size_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m256i code = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + i));
    __m256i* to = reinterpret_cast<__m256i*>(largest + i);
    _mm256_storeu_si256(to, _mm256_max_epu8(_mm256_loadu_si256(to), _mm256_and_si256(code, mask)));
  }
  PortableEncoders().column_max(row + i, n - i, largest + i);
}

uint16_t Max16(const uint8_t* in, size_t n) {
  const __m256i mask = _mm256_set1_epi16(0x7FFF);
  __m256i largest[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  size_t i = 0;
  for (; i + 32 <= n; i += 32) {
    for (size_t k = 0; k < 2; ++k) {
      const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + 2 * i + 32 * k));
      largest[k] = _mm256_max_epi16(largest[k], _mm256_and_si256(bits, mask));
    }
  }
  alignas(32) uint8_t last[32];
  _mm256_store_si256(reinterpret_cast<__m256i*>(last), _mm256_max_epi16(largest[0], largest[1]));
  return std::max(PortableEncoders().max16(last, 16), PortableEncoders().max16(in + 2 * i, n - i));
}

uint32_t Max32(const uint8_t* in, size_t n) {
  const __m256i mask = _mm256_set1_epi32(0x7FFFFFFF);
  __m256i largest = _mm256_setzero_si256();
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + 4 * i));
    largest = _mm256_max_epi32(largest, _mm256_and_si256(bits, mask));
  }
  alignas(32) uint8_t last[32];
  _mm256_store_si256(reinterpret_cast<__m256i*>(last), largest);
  const uint32_t found = PortableEncoders().max32(last, 8);
  return i == n ? found : std::max(found, PortableEncoders().max32(in + 4 * i, n - i));
}

}  // namespace

const EncodeKernels& Avx2Encoders() {
  static constexpr EncodeKernels kernels = {
      .round_bf16 = RoundBf16,
      .amax = Amax,
      .nvfp4 = Nvfp4,
      .mxfp4 = Mxfp4,
      .mxfp8 = Mxfp8,
      .fp8 = Fp8,
      .errors = Errors,
      .beyond = Beyond,
      .fp8_nvfp4 = EncodeFp8ToNvfp4Avx2,
      .column_max = ColumnMax,
      .max16 = Max16,
      .max32 = Max32,
  };
  return kernels;
}

}  // namespace mimo::kernels
#endif  // MIMO_X86
