// AVX2: codes by shuffles, tiles by interleaving.
#include "kernels/cpu/adjust_table.h"

#ifdef MIMO_X86
#include <immintrin.h>

namespace mimo::kernels {
namespace {

// A rule's upper part is regular: from magnitude 32 on, up to saturation, a code changes by what its mantissa says.
// Below stand two tables of 16; NaN aside.
struct Shuffles {
  __m256i low[2], low_lost[2];  // magnitudes 0..15 and 16..31
  __m256i delta, delta_lost;    // by mantissa: magnitude minus new magnitude, modulo 256
  __m256i limit;                // the largest magnitude that loses nothing to saturation
  explicit Shuffles(const CodeTable& table) {
    alignas(16) uint8_t change[16], change_lost[16];
    for (unsigned i = 0; i < 16; ++i) {
      const unsigned magnitude = 32 + (i & 7);
      change[i] = static_cast<uint8_t>(magnitude - table.code[magnitude]);
      change_lost[i] = table.lost[magnitude];
    }
    const auto twice = [](const uint8_t* bytes) {
      return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
    };
    for (unsigned i = 0; i < 2; ++i) {
      low[i] = twice(table.code.data() + 16 * i);
      low_lost[i] = twice(table.lost.data() + 16 * i);
    }
    delta = twice(change);
    delta_lost = twice(change_lost);
    unsigned last = 0x7E;  // saturation is where the new code stops following the mantissa
    while (last > 32 && static_cast<uint8_t>(last - table.code[last]) != change[last & 7]) --last;
    limit = _mm256_set1_epi8(static_cast<char>(last));
  }
};

uint64_t Codes(const CodeTable& table, const uint8_t* in, uint8_t* out, size_t n) {
  const Shuffles s(table);
  const __m256i magnitude_mask = _mm256_set1_epi8(0x7F), nan = magnitude_mask, one = _mm256_set1_epi8(1);
  const __m256i most = _mm256_set1_epi8(0x7E);
  __m256i sums = _mm256_setzero_si256();
  size_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m256i code = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i));
    const __m256i magnitude = _mm256_and_si256(code, magnitude_mask);
    const __m256i mantissa = _mm256_and_si256(magnitude, _mm256_set1_epi8(7));
    const __m256i below32 = _mm256_cmpgt_epi8(_mm256_set1_epi8(32), magnitude);
    const __m256i from16 = _mm256_cmpgt_epi8(magnitude, _mm256_set1_epi8(15));
    const __m256i beyond = _mm256_cmpgt_epi8(magnitude, s.limit);
    const __m256i is_nan = _mm256_cmpeq_epi8(magnitude, nan);
    const __m256i place = _mm256_and_si256(magnitude, _mm256_set1_epi8(15));
    const __m256i low =
        _mm256_blendv_epi8(_mm256_shuffle_epi8(s.low[0], place), _mm256_shuffle_epi8(s.low[1], place), from16);
    const __m256i low_lost = _mm256_blendv_epi8(_mm256_shuffle_epi8(s.low_lost[0], place),
                                                _mm256_shuffle_epi8(s.low_lost[1], place), from16);
    __m256i high = _mm256_sub_epi8(magnitude, _mm256_shuffle_epi8(s.delta, mantissa));
    high = _mm256_blendv_epi8(high, most, beyond);
    const __m256i high_lost =
        _mm256_or_si256(_mm256_shuffle_epi8(s.delta_lost, mantissa), _mm256_and_si256(beyond, one));
    const __m256i changed = _mm256_blendv_epi8(_mm256_blendv_epi8(high, low, below32), magnitude, is_nan);
    const __m256i lost = _mm256_andnot_si256(is_nan, _mm256_blendv_epi8(high_lost, low_lost, below32));
    sums = _mm256_add_epi64(sums, _mm256_sad_epu8(lost, _mm256_setzero_si256()));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                        _mm256_or_si256(changed, _mm256_andnot_si256(magnitude_mask, code)));
  }
  alignas(32) uint64_t lanes[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sums);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3] + PortableAdjusters().codes(table, in + i, out + i, n - i);
}

template <size_t kElement>
__m256i InterleaveLow(__m256i a, __m256i b) {
  if constexpr (kElement == 1) return _mm256_unpacklo_epi8(a, b);
  if constexpr (kElement == 2) return _mm256_unpacklo_epi16(a, b);
  return _mm256_unpacklo_epi32(a, b);
}
template <size_t kElement>
__m256i InterleaveHigh(__m256i a, __m256i b) {
  if constexpr (kElement == 1) return _mm256_unpackhi_epi8(a, b);
  if constexpr (kElement == 2) return _mm256_unpackhi_epi16(a, b);
  return _mm256_unpackhi_epi32(a, b);
}

// A block has 16 bytes to a side of the tile. Interleaving row i with row i + n/2, log2(n) times, turns n x n elements
// over; each 128-bit lane does so for one of two neighbouring blocks.
template <size_t kElement>
void Tile(const uint8_t* in, uint8_t* out, uint64_t out_row_bytes) {
  constexpr size_t kSide = kTileBytes / kElement, kBlock = 16 / kElement;
  for (size_t row = 0; row < kSide; row += kBlock) {
    for (size_t col_bytes = 0; col_bytes < kTileBytes; col_bytes += 32) {
      __m256i rows[kBlock], next[kBlock];
      for (size_t i = 0; i < kBlock; ++i)
        rows[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + (row + i) * kTileBytes + col_bytes));
      for (size_t round = 1; round < kBlock; round *= 2) {
        for (size_t i = 0; i < kBlock / 2; ++i) {
          next[2 * i] = InterleaveLow<kElement>(rows[i], rows[i + kBlock / 2]);
          next[2 * i + 1] = InterleaveHigh<kElement>(rows[i], rows[i + kBlock / 2]);
        }
        for (size_t i = 0; i < kBlock; ++i) rows[i] = next[i];
      }
      uint8_t* to = out + col_bytes / kElement * out_row_bytes + row * kElement;
      for (size_t i = 0; i < kBlock; ++i) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i * out_row_bytes), _mm256_castsi256_si128(rows[i]));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + (i + kBlock) * out_row_bytes),
                         _mm256_extracti128_si256(rows[i], 1));
      }
    }
  }
}

}  // namespace

const AdjustKernels& Avx2Adjusters() {
  static constexpr AdjustKernels kernels = {.codes = Codes, .tile1 = Tile<1>, .tile2 = Tile<2>, .tile4 = Tile<4>};
  return kernels;
}

}  // namespace mimo::kernels
#endif  // MIMO_X86
