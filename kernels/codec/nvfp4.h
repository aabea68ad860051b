// NVFP4: E2M1 elements, one E4M3 scale per 16 columns of a row, one FP32 multiplier for the tensor
// (quantization-formats.md 3.2, 3.4; docs/numerics.md). All arithmetic is FP32, one rounding per operation, in the
// order written here: the order decides bytes.
#pragma once

#include "kernels/codec/e2m1.h"
#include "kernels/codec/e4m3.h"
#include "kernels/codec/e8m0.h"

namespace mimo::kernels {

inline constexpr uint32_t kNvfp4Group = 16;
inline constexpr uint8_t kNvfp4LeastScale = 0x01;  // 2^-9; a scale of zero is never written
inline constexpr uint8_t kNvfp4UnitScale = 0x38;   // 1.0: what a group of zeros gets under the max rule
inline constexpr int kNvfp4SweepFirst = 0x01;      // the candidates of the sweep
inline constexpr int kNvfp4SweepLast = 0x7E;
inline constexpr int kNvfp4MseSteps = 39;

// ---- values

// What the elements of a group are multiplied by.
MIMO_HD inline float Nvfp4Multiplier(uint8_t scale, float global, bool global_divides) {
  const float block = E4m3ToFloat(scale);
  return WithSignOfNan(global_divides ? block / global : block * global, block, global);
}

// e2m1 * multiplier, one rounding.
MIMO_HD inline float Nvfp4Value(uint8_t nibble, float multiplier) {
  const float element = E2m1ToFloat(nibble);
  return WithSignOfNan(element * multiplier, element, multiplier);
}

// ---- elements

MIMO_HD inline float Magnitude(float x) {
  return FloatFromBits(FloatBits(x) & ~kFp32Sign);
}

// |x|, or 0 where x is not finite: what scales are chosen from.
MIMO_HD inline float FiniteMagnitude(float x) {
  return IsFinite(x) ? Magnitude(x) : 0.0f;
}

// The magnitude code of a non-negative x', ties to even. NaN (which no finite source gives) counts as large.
MIMO_HD inline uint8_t E2m1Magnitude(float scaled) {
  return static_cast<uint8_t>(static_cast<int>(!(scaled <= 0.25f)) + static_cast<int>(!(scaled < 0.75f)) +
                              static_cast<int>(!(scaled <= 1.25f)) + static_cast<int>(!(scaled < 1.75f)) +
                              static_cast<int>(!(scaled <= 2.5f)) + static_cast<int>(!(scaled < 3.5f)) +
                              static_cast<int>(!(scaled <= 5.0f)));
}

// x' = x / multiplier, for a multiplier >= 0. A product of scales that underflowed to zero decodes to zeros: so be it,
// without a division by zero.
MIMO_HD inline float Nvfp4Scaled(float x, float multiplier) {
  return multiplier > 0 ? x / multiplier : (IsFinite(x) ? 0.0f : x);
}

// The sign bit is that of x' < 0: kept when a negative x' rounds to zero, dropped for -0.0. NaN: 7 under its sign.
MIMO_HD inline uint8_t Nvfp4Code(float x, float multiplier) {
  if (IsNan(x)) return static_cast<uint8_t>(FloatBits(x) >> 31 << 3 | 7);
  const float scaled = Nvfp4Scaled(x, multiplier);
  return static_cast<uint8_t>(E2m1Magnitude(Magnitude(scaled)) | (scaled < 0 ? 8 : 0));
}

// ---- the scale of a group

// The tensor's multiplier and the amax it came from. amax = 0: unknown, or a tensor of zeros.
struct Nvfp4Range {
  float multiplier = 1;
  float amax = 0;
};

// amax / (6 * normalization), normalization 448 or 256. Zero amax: 1. An amax so small that the quotient is zero: the
// least positive number, so that nothing is divided by zero.
MIMO_HD inline float Nvfp4TensorMultiplier(float amax, float normalization) {
  if (!(amax > 0)) return 1.0f;
  const float multiplier = amax / (6.0f * normalization);
  return multiplier > 0 ? multiplier : FloatFromBits(1);
}

// Clamped to [2^-9, 448], then rounded to even. `ratio` >= 0, maybe infinite.
MIMO_HD inline uint8_t Nvfp4ScaleCode(float ratio) {
  if (!(ratio > 0.001953125f)) return kNvfp4LeastScale;
  return E4m3FromFloat(ratio < kE4m3Max ? ratio : kE4m3Max, /*saturate=*/true);
}

// ModelOpt, dynamic: the quotient by 6 * multiplier; 1 where that is zero.
MIMO_HD inline uint8_t Nvfp4MaxScale(float amax, float multiplier) {
  const float ratio = amax / (6.0f * multiplier);
  return Nvfp4ScaleCode(ratio == 0 ? 1.0f : ratio);
}

// ModelOpt, calibrated: the group's amax against the tensor's, each divided by 6 first.
MIMO_HD inline uint8_t Nvfp4CalibratedScale(float amax, const Nvfp4Range& range, float normalization) {
  const float whole = range.amax > 0 ? range.amax : range.multiplier * (6.0f * normalization);
  float part = amax / 6.0f;
  if (part == 0) part = 1.0f;
  return Nvfp4ScaleCode(part * normalization / (whole / 6.0f));
}

// |x| - |y| of one element, x >= 0 finite.
MIMO_HD inline float Nvfp4Miss(float magnitude, float multiplier) {
  const uint8_t code = E2m1Magnitude(Nvfp4Scaled(magnitude, multiplier));
  return magnitude - E2m1ToFloat(code) * multiplier;
}

// Sum of squared errors under a candidate scale, in FP32. The order: element i with i + 8, then i with i + 4, 2, 1.
// `magnitudes`: 16 finite |x|.
MIMO_HD inline float Nvfp4Loss(const float* magnitudes, uint8_t scale, float tensor_multiplier) {
  const float multiplier = E4m3ToFloat(scale) * tensor_multiplier;
  float sums[8];
  for (int i = 0; i < 8; ++i) {
    const float low = Nvfp4Miss(magnitudes[i], multiplier);
    const float high = Nvfp4Miss(magnitudes[i + 8], multiplier);
    sums[i] = low * low + high * high;
  }
  for (int i = 0; i < 4; ++i) sums[i] = sums[i] + sums[i + 4];
  return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

// Candidates are tried in order and a later one must be strictly better. A loss that overflowed to infinity beats none.
struct Nvfp4Best {
  uint8_t scale = 0;
  float loss = 0;
  bool any = false;
  MIMO_HD void Consider(uint8_t candidate, float candidate_loss) {
    if (any && !(candidate_loss < loss)) return;
    scale = candidate;
    loss = candidate_loss;
    any = true;
  }
};

// amax to 6, or amax to 4 (the scale 1.5 times as large) where that errs strictly less. Normalization 256.
inline constexpr float kFourOverSixNormalization = 256.0f;
MIMO_HD inline uint8_t Nvfp4FourOverSixScale(const float* magnitudes, float amax, const Nvfp4Range& range) {
  Nvfp4Best best;
  const uint8_t six = Nvfp4CalibratedScale(amax, range, kFourOverSixNormalization);
  best.Consider(six, Nvfp4Loss(magnitudes, six, range.multiplier));
  const uint8_t four = Nvfp4CalibratedScale(amax * 1.5f, range, kFourOverSixNormalization);
  if (four != six) best.Consider(four, Nvfp4Loss(magnitudes, four, range.multiplier));
  return best.scale;
}

// All positive E4M3 codes, ascending. A group of zeros gets the first, 0x01.
MIMO_HD inline uint8_t Nvfp4SweepScale(const float* magnitudes, const Nvfp4Range& range) {
  Nvfp4Best best;
  for (int code = kNvfp4SweepFirst; code <= kNvfp4SweepLast; ++code) {
    const uint8_t scale = static_cast<uint8_t>(code);
    best.Consider(scale, Nvfp4Loss(magnitudes, scale, range.multiplier));
  }
  return best.scale;
}

// What the amax is multiplied by at a step of the mse calibration: linspace(0.25, 4, 39) as torch computes it.
MIMO_HD inline float Nvfp4MseFactor(int step) {
  const uint32_t bits[kNvfp4MseSteps] = {
      0x3E800000, 0x3EB286BD, 0x3EE50D7A, 0x3F0BCA1B, 0x3F250D7A, 0x3F3E50D8, 0x3F579436, 0x3F70D795,
      0x3F850D7A, 0x3F91AF29, 0x3F9E50D8, 0x3FAAF287, 0x3FB79436, 0x3FC435E5, 0x3FD0D795, 0x3FDD7944,
      0x3FEA1AF3, 0x3FF6BCA2, 0x4001AF29, 0x40080000, 0x400E50D7, 0x4014A1AF, 0x401AF286, 0x4021435E,
      0x40279436, 0x402DE50D, 0x403435E5, 0x403A86BC, 0x4040D794, 0x4047286C, 0x404D7943, 0x4053CA1B,
      0x405A1AF2, 0x40606BCA, 0x4066BCA2, 0x406D0D79, 0x40735E51, 0x4079AF28, 0x40800000};
  return FloatFromBits(bits[step]);
}

MIMO_HD inline uint8_t Nvfp4MseScale(const float* magnitudes, float amax, const Nvfp4Range& range) {
  Nvfp4Best best;
  for (int step = 0; step < kNvfp4MseSteps; ++step) {
    const uint8_t scale = Nvfp4CalibratedScale(amax * Nvfp4MseFactor(step), range, kE4m3Max);
    if (best.any && scale == best.scale) continue;  // the same loss again
    best.Consider(scale, Nvfp4Loss(magnitudes, scale, range.multiplier));
  }
  return best.scale;
}

// ---- from MXFP4, exactly

// The largest E8M0 byte under which no element overflows FP32 (6 * 2^125); above it no path is exact.
inline constexpr uint8_t kMxfp4LargestFinite = 252;
inline constexpr int kNvfp4ExactSpan = 17;  // 2^-9 .. 2^8

// 2^(largest - 127 - 8).
MIMO_HD inline float Nvfp4ExactMultiplier(uint8_t largest_exponent) {
  return E8m0ToFloat(largest_exponent) * 0.00390625f;
}

// 2^(byte - largest + 8) as E4M3. Groups of zeros may lie outside: clamped.
MIMO_HD inline uint8_t Nvfp4ExactScale(uint8_t byte, uint8_t largest_exponent) {
  int exponent = static_cast<int>(byte) - static_cast<int>(largest_exponent) + 8;
  if (exponent > 8) exponent = 8;
  if (exponent < -9) exponent = -9;
  return static_cast<uint8_t>(exponent >= -6 ? (exponent + 7) << 3 : 1 << (exponent + 9));
}

}  // namespace mimo::kernels
