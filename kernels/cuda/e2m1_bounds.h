// x / m rounded to E2M1 without the division. Both ways give the bytes of kernels/codec/nvfp4.h:
//   bounds  the code of x / m is the number of k with |x| > above[k], for seven floats that depend on m alone
//   guess   |x| * (1 / m), rounded on its bits; good unless it lies near a boundary, which it can tell
#pragma once

#include "kernels/codec/nvfp4.h"
#include "kernels/cuda/source_tile.h"

namespace mimo::kernels::cuda {

struct E2m1Bounds {
  float above[7];
};

// Where b and 1.5 m * 2^-26 are exact and nothing overflows.
constexpr float kBoundsLeast = 0x1p-100f;
constexpr float kBoundsLargest = 0x1p100f;

// m * b + m * h rounded up or down, once, for a power of two h: m * b + m * h has 49 bits.
template <bool kUp>
MIMO_HD inline float ProductRounded(float m, float b, float h) {
#ifdef __CUDA_ARCH__
  return kUp ? __fmaf_ru(m, b, m * h) : __fmaf_rd(m, b, m * h);
#else
  const double exact = static_cast<double>(m) * (static_cast<double>(b) + static_cast<double>(h));
  const float near = static_cast<float>(exact);
  if (kUp) return static_cast<double>(near) < exact ? FloatFromBits(FloatBits(near) + 1) : near;
  return static_cast<double>(near) > exact ? FloatFromBits(FloatBits(near) - 1) : near;
#endif
}

// For kBoundsLeast <= m <= kBoundsLargest. The quotient is rounded before it is compared with a boundary b, and b is
// even: fl(x / m) <= b just when x / m <= b + ulp(b) / 2, and fl(x / m) < b just when x / m < b - ulp(b) / 2.
MIMO_HD inline E2m1Bounds QuotientBounds(float m) {
  const auto not_above = [m](float b, float half_ulp) { return ProductRounded<false>(m, b, half_ulp); };
  const auto below = [m](float b, float half_ulp) {  // x < up is x <= the float before it
    return FloatFromBits(FloatBits(ProductRounded<true>(m, b, -half_ulp)) - 1);
  };
  return {{not_above(0.25f, 0x1p-26f), below(0.75f, 0x1p-25f), not_above(1.25f, 0x1p-24f), below(1.75f, 0x1p-24f),
           not_above(2.5f, 0x1p-23f), below(3.5f, 0x1p-23f), not_above(5.0f, 0x1p-22f)}};
}

// For m a power of two in the same range, where x / m is exact: ties are ties of x.
MIMO_HD inline E2m1Bounds PowerBounds(float m, bool ties_toward_zero) {
  const auto below = [m, ties_toward_zero](float b) {
    return ties_toward_zero ? b * m : FloatFromBits(FloatBits(b * m) - 1);
  };
  return {{0.25f * m, below(0.75f), 1.25f * m, below(1.75f), 2.5f * m, below(3.5f), 5.0f * m}};
}

MIMO_HD inline uint32_t CountAbove(const E2m1Bounds& bounds, float magnitude) {
  uint32_t count = 0;
  MIMO_UNROLL
  for (int k = 0; k < 7; ++k) count += magnitude > bounds.above[k];
  return count;
}

// ---- sixteen codes

constexpr uint32_t kGuessMargin = 32;  // of 2^22 between codes; the guess errs by less than 4

// Finite values, the largest magnitude `amax`, to two words of nibbles as Nvfp4Code makes them. False where neither way
// applies. The guess: |x| * 2^-126 / m as bits is exponent and mantissa of E2M1 with 22 more bits below, subnormals
// included. A non-zero x has a non-zero quotient as m <= 1, so the sign is that of x < 0.
MIMO_HD inline bool QuickNvfp4Codes(const float* values, float amax, float m, uint32_t* words) {
  if (!(m >= kBoundsLeast && m <= 1.0f)) return false;
  const float inverse = 0x1p-126f / m;
  if (!(amax * inverse < 6.75f * 0x1p-126f)) return false;
  uint32_t nearest = kGuessMargin * 2;
  MIMO_UNROLL
  for (int i = 0; i < 2; ++i) {
    uint32_t word = 0;
    MIMO_UNROLL
    for (int j = 0; j < 8; ++j) {
      const uint32_t bits = FloatBits((values[8 * i + j] + 0.0f) * inverse) + (0x200000u + kGuessMargin);  // -0 is +0
      const uint32_t past = bits & 0x3FFFFFu;  // the boundary is at kGuessMargin
      nearest = past < nearest ? past : nearest;
      const uint32_t code = bits >> 22 & 7;
      word |= (code | (bits >> 28 & 8)) << (4 * j);
    }
    words[i] = word;
  }
  if (nearest >= kGuessMargin * 2) return true;
  const E2m1Bounds bounds = QuotientBounds(m);
  MIMO_UNROLL
  for (int i = 0; i < 2; ++i) {
    uint32_t word = 0;
    MIMO_UNROLL
    for (int j = 0; j < 8; ++j) {
      const float x = values[8 * i + j];
      word |= (CountAbove(bounds, Magnitude(x)) | (x < 0 ? 8u : 0u)) << (4 * j);
    }
    words[i] = word;
  }
  return true;
}

}  // namespace mimo::kernels::cuda
