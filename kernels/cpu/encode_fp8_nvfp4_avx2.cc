// FP8 block -> NVFP4 under the max rule, without decoding. Within one source block the largest magnitude code m of a
// group fixes its scale, and a nibble is then a monotone function of the code's magnitude: seven thresholds, and an
// eighth for the first code whose x' is not zero (the sign of smaller ones is dropped). A table entry per m is made
// when first met: a few dozen at most of 127 occur in a block of weights.
#include "kernels/cpu/encode_table.h"

#ifdef MIMO_X86
#include <immintrin.h>

#include <cstring>

namespace mimo::kernels {
namespace {

constexpr int kCodes = kE4m3Nan;  // magnitude codes 0 .. 126; 127, NaN, is above every threshold

// Bounds between the codes; from the odd ones on, the greater code begins at the bound itself (ties to even).
constexpr float kBounds[8] = {0.0f, 0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};

class Thresholds {
 public:
  void Begin(float block_scale, float tensor_multiplier, bool via_bf16) {
    scale_ = block_scale;
    tensor_multiplier_ = tensor_multiplier;
    via_bf16_ = via_bf16;
    std::memset(entries_, 0, sizeof(entries_));
  }

  struct Entry {
    uint8_t last_before[8];  // a code is past threshold i when its magnitude is greater than this
    uint8_t scale;           // 0: not made yet
    uint8_t unused[7];
  };
  const Entry& Of(unsigned largest) {
    Entry& entry = entries_[largest];
    if (entry.scale == 0) [[unlikely]] {
      Make(largest);
    }
    return entry;
  }

 private:
  [[gnu::noinline]] void Make(unsigned largest) {
    const float amax = EncodedValue(Fp8Value(static_cast<uint8_t>(largest), scale_), via_bf16_);
    Entry& entry = entries_[largest];
    entry.scale = Nvfp4MaxScale(amax, tensor_multiplier_);
    const float multiplier = Nvfp4Multiplier(entry.scale, tensor_multiplier_, false);
    if (!Estimate(multiplier, entry.last_before)) Scan(multiplier, entry.last_before);
  }

  // By definition: the last code before each threshold.
  void Scan(float multiplier, uint8_t* bytes) const {
    int codes[8] = {};  // how many lie before the threshold
    for (int code = 0; code < kCodes; ++code) {
      const float x = EncodedValue(Fp8Value(static_cast<uint8_t>(code), scale_), via_bf16_);
      const uint8_t nibble = Nvfp4Code(x, multiplier);
      codes[0] += !(Nvfp4Scaled(x, multiplier) > 0);
      for (int i = 1; i < 8; ++i) codes[i] += (nibble & 7) < i;
    }
    for (int i = 0; i < 8; ++i) bytes[i] = static_cast<uint8_t>(codes[i] - 1);
  }

  // x' of eight magnitude codes, as the definitions compute it.
  __m256 Scaled(__m256i codes, __m256 multiplier) const {
    const __m256i normal = _mm256_add_epi32(_mm256_slli_epi32(codes, 20), _mm256_set1_epi32(120 << 23));
    const __m256 small = _mm256_mul_ps(_mm256_cvtepi32_ps(codes), _mm256_set1_ps(0.001953125f));
    const __m256i is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(8), codes);
    const __m256 element = _mm256_castsi256_ps(_mm256_blendv_epi8(normal, _mm256_castps_si256(small), is_small));
    __m256 x = _mm256_mul_ps(element, _mm256_set1_ps(scale_));
    if (via_bf16_) {
      const __m256i bits = _mm256_castps_si256(x);
      const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
      const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
      x = _mm256_castsi256_ps(_mm256_and_si256(sum, _mm256_set1_epi32(static_cast<int>(0xFFFF0000u))));
    }
    return _mm256_div_ps(x, multiplier);
  }

  static __m256i Past(__m256 scaled) {
    const __m256 bounds = _mm256_loadu_ps(kBounds);
    const __m256 above = _mm256_cmp_ps(scaled, bounds, _CMP_GT_OQ);
    const __m256 from = _mm256_cmp_ps(scaled, bounds, _CMP_GE_OQ);
    return _mm256_castps_si256(_mm256_blend_ps(above, from, 0b01010100));  // 0.75, 1.75, 3.5
  }

  // The smallest code c whose value reaches bound * multiplier / scale, then proved: c - 1 must not be past the
  // threshold, and c or c + 1 must be. False where that fails.
  bool Estimate(float multiplier, uint8_t* bytes) const {
    if (!(multiplier > 0) || !(scale_ > 0)) return false;
    const __m256 divisor = _mm256_set1_ps(multiplier);
    const __m256 wanted = _mm256_mul_ps(_mm256_loadu_ps(kBounds), _mm256_set1_ps(multiplier / scale_));
    const __m256i bits = _mm256_castps_si256(wanted);
    const __m256i normal = _mm256_srai_epi32(
        _mm256_add_epi32(_mm256_sub_epi32(bits, _mm256_set1_epi32(120 << 23)), _mm256_set1_epi32(0xFFFFF)), 20);
    const __m256i small = _mm256_cvtps_epi32(_mm256_ceil_ps(_mm256_mul_ps(wanted, _mm256_set1_ps(512.0f))));
    const __m256i is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(121 << 23), bits);
    const __m256i one = _mm256_set1_epi32(1);
    const __m256i last = _mm256_set1_epi32(kCodes - 1);
    const __m256i code = _mm256_max_epi32(one, _mm256_min_epi32(last, _mm256_blendv_epi8(normal, small, is_small)));
    const __m256i before = Past(Scaled(_mm256_sub_epi32(code, one), divisor));
    const __m256i at = Past(Scaled(code, divisor));
    const __m256i after =
        _mm256_or_si256(Past(Scaled(_mm256_add_epi32(code, one), divisor)), _mm256_cmpeq_epi32(code, last));
    const __m256i wrong =
        _mm256_or_si256(before, _mm256_andnot_si256(_mm256_or_si256(at, after), _mm256_set1_epi32(-1)));
    if (!_mm256_testz_si256(wrong, wrong)) return false;
    alignas(32) int32_t first[8];  // past it: code when `at`, else code + 1; stored one less
    _mm256_store_si256(reinterpret_cast<__m256i*>(first), _mm256_add_epi32(code, at));
    for (int i = 0; i < 8; ++i) bytes[i] = static_cast<uint8_t>(first[i]);
    return true;
  }

  float scale_ = 0;
  float tensor_multiplier_ = 1;
  bool via_bf16_ = false;
  alignas(64) Entry entries_[128];
};

struct Two {
  unsigned first, second;
};

// The largest byte of each half.
Two LargestOfHalves(__m256i v) {
  v = _mm256_max_epu8(v, _mm256_srli_si256(v, 8));
  v = _mm256_max_epu8(v, _mm256_srli_epi64(v, 32));
  v = _mm256_max_epu8(v, _mm256_srli_epi32(v, 16));
  v = _mm256_max_epu8(v, _mm256_srli_epi16(v, 8));
  return {static_cast<unsigned>(_mm_cvtsi128_si32(_mm256_castsi256_si128(v))) & 0xFF,
          static_cast<unsigned>(_mm_cvtsi128_si32(_mm256_extracti128_si256(v, 1))) & 0xFF};
}

// Shuffles that repeat byte i of each half.
struct Selectors {
  alignas(32) uint8_t bytes[8][32];
};
constexpr Selectors kSelect = [] {
  Selectors all{};
  for (uint8_t i = 0; i < 8; ++i) {
    for (uint8_t& byte : all.bytes[i]) byte = i;
  }
  return all;
}();

// Two groups.
__m128i EncodePair(__m256i codes, Thresholds* thresholds, uint8_t* scales, const uint8_t* select, __m256i* nans) {
  const __m256i nan_code = _mm256_set1_epi8(kE4m3Nan);
  const __m256i magnitude = _mm256_and_si256(codes, nan_code);
  const __m256i nan = _mm256_cmpeq_epi8(magnitude, nan_code);
  *nans = _mm256_or_si256(*nans, nan);
  const Two largest = LargestOfHalves(_mm256_andnot_si256(nan, magnitude));
  const Thresholds::Entry& entry0 = thresholds->Of(largest.first);
  const Thresholds::Entry& entry1 = thresholds->Of(largest.second);
  const __m128i first = _mm_load_si128(reinterpret_cast<const __m128i*>(&entry0));
  const __m128i second = _mm_load_si128(reinterpret_cast<const __m128i*>(&entry1));
  scales[0] = entry0.scale;
  scales[1] = entry1.scale;
  const __m256i bounds = _mm256_set_m128i(second, first);
  const auto past = [&](int i) {
    const __m256i one = _mm256_load_si256(reinterpret_cast<const __m256i*>(select + 32 * i));
    return _mm256_cmpgt_epi8(magnitude, _mm256_shuffle_epi8(bounds, one));
  };
  const __m256i sum =
      _mm256_add_epi8(_mm256_add_epi8(_mm256_add_epi8(past(1), past(2)), _mm256_add_epi8(past(3), past(4))),
                      _mm256_add_epi8(_mm256_add_epi8(past(5), past(6)), past(7)));
  const __m256i sign = _mm256_and_si256(_mm256_andnot_si256(nan_code, codes), past(0));
  const __m256i nibbles = _mm256_or_si256(_mm256_abs_epi8(sum), _mm256_srli_epi16(sign, 4));
  const __m256i pairs = _mm256_maddubs_epi16(nibbles, _mm256_set1_epi16(0x1001));  // even + 16 * odd
  return _mm_packus_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
}

// One block of one row. Not inlined: its loop needs all registers.
[[gnu::noinline]] void EncodeStretch(const uint8_t* from, uint64_t n, Thresholds* thresholds, const uint8_t* select,
                                     uint8_t* codes, uint8_t* scales, __m256i* nans) {
  __m256i found = *nans;
  uint64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m256i in = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
    const __m128i out = EncodePair(in, thresholds, scales + i / kNvfp4Group, select, &found);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i / 2), out);
  }
  if (i < n) {  // one group more
    uint8_t pair[2];
    const __m256i in = _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
    const __m256i padded = _mm256_inserti128_si256(in, _mm_setzero_si128(), 1);
    const __m128i out = EncodePair(padded, thresholds, pair, select, &found);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(codes + i / 2), out);
    scales[i / kNvfp4Group] = pair[0];
  }
  *nans = found;
}

}  // namespace

uint64_t EncodeFp8ToNvfp4Avx2(const Fp8ToNvfp4& panel) {
  Thresholds thresholds[kFusedBlocks];
  for (uint32_t block = 0; block < panel.blocks; ++block) {
    thresholds[block].Begin(panel.block_scales[block], panel.multiplier, panel.via_bf16);
  }
  const uint8_t* select = kSelect.bytes[0];
  asm("" : "+r"(select));  // loads are cheaper than eight constants made anew for every pair
  uint64_t nan_codes = 0;
  for (uint64_t row = 0; row < panel.rows; ++row) {
    const uint8_t* from = panel.from + row * panel.from_row_bytes;
    uint8_t* codes = panel.codes + row * panel.code_row_bytes;
    uint8_t* scales = panel.scales + row * panel.scale_row_bytes;
    __m256i nans = _mm256_setzero_si256();
    for (uint32_t block = 0; block < panel.blocks; ++block) {
      const uint64_t start = panel.edges[block];
      EncodeStretch(from + start, panel.edges[block + 1] - start, &thresholds[block], select, codes + start / 2,
                    scales + start / kNvfp4Group, &nans);
    }
    if (!_mm256_testz_si256(nans, nans)) [[unlikely]] {
      nan_codes += CountNanCodes(from, panel.edges[panel.blocks]);
    }
  }
  return nan_codes;
}

}  // namespace mimo::kernels
#endif  // MIMO_X86
