// Values under a block scale: block FP8 (one FP32 multiplier per block) and MXFP4 (one E8M0 byte per 32 elements of a
// row). quantization-formats.md 2.1, 2.5, 4.
#pragma once

#include "kernels/codec/e2m1.h"
#include "kernels/codec/e4m3.h"
#include "kernels/codec/e4m3_adjust.h"
#include "kernels/codec/e8m0.h"

namespace mimo::kernels {

inline constexpr uint32_t kMxfp4Group = 32;

// fp32(code) * fp32(scale), one rounding.
MIMO_HD inline float Fp8Value(uint8_t code, float scale) {
  const float element = E4m3ToFloat(code);
  return WithSignOfNan(element * scale, element, scale);
}

// The scale of a block whose largest magnitude is `amax`.
MIMO_HD inline float Fp8FreshScale(float amax) {
  return (amax > 1e-12f ? amax : 1e-12f) / kE4m3Max;
}

// The scale of such a block as a power of two (UE8M0): 2^ceil(log2(max(amax, 1e-4) / 448)), from the bits of the FP32
// quotient.
MIMO_HD inline float Fp8PowerScale(float amax) {
  return E8m0ToFloat(E8m0RoundUp((amax > 1e-4f ? amax : 1e-4f) / kE4m3Max));
}

// The scale of such a block for Neuron's E4M3, whose largest value is 240 (target-layouts.md 7.1).
MIMO_HD inline float Fp8NeuronScale(float amax) {
  const float scale = amax / kNeuronMax;
  return scale > 1e-10f ? scale : 1e-10f;
}

// RNE(clamp(x / scale, +-448)). NaN gives sign | 0x7F, so that a NaN code under a positive scale stays what it is.
MIMO_HD inline uint8_t Fp8Code(float x, float scale) {
  if (IsNan(x)) return static_cast<uint8_t>((FloatBits(x) >> 31 << 7) | kE4m3Nan);
  return E4m3FromFloat(x / scale, /*saturate=*/true);
}

// The code, or +-240 where it is beyond (rounding is monotonic: the same as clamping first). NaN stays.
MIMO_HD inline uint8_t Fp8NeuronLimit(uint8_t code) {
  const uint8_t magnitude = code & 0x7F;
  if (magnitude <= kNeuronMaxCode || magnitude == kE4m3Nan) return code;
  return static_cast<uint8_t>((code & 0x80) | kNeuronMaxCode);
}

MIMO_HD inline bool Fp8ScaleIsBad(float scale) {
  return !IsFinite(scale) || scale < 0;
}

// e2m1 * 2^(byte - 127). Exact but for overflow, which gives infinity; byte 255 gives NaN under the nibble's sign.
MIMO_HD inline float Mxfp4Value(uint8_t nibble, uint8_t byte) {
  if (byte == kE8m0Nan) return FloatFromBits((static_cast<uint32_t>(nibble & 8) << 28) | kFp32Nan);
  return E2m1ToFloat(nibble) * E8m0ToFloat(byte);
}

}  // namespace mimo::kernels
