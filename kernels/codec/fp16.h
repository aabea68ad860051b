// FP16: S EEEEE M10, bias 15, largest 65504 = 0x7BFF (quantization-formats.md 1.1, 1.2).
#pragma once

#include "kernels/codec/float_bits.h"

namespace mimo::kernels {

inline constexpr uint16_t kFp16Inf = 0x7C00;
inline constexpr uint16_t kFp16Nan = 0x7E00;

// Exact. NaN gives the canonical NaN under its sign.
MIMO_HD inline float Fp16ToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t magnitude = half & 0x7FFF;
  if (magnitude > kFp16Inf) return FloatFromBits(sign | kFp32Nan);
  if (magnitude == kFp16Inf) return FloatFromBits(sign | kFp32Inf);
  if (magnitude < 0x400) {  // m * 2^-24
    const float value = static_cast<float>(magnitude) * 0.000000059604644775390625f;
    return FloatFromBits(sign | FloatBits(value));
  }
  return FloatFromBits(sign | ((magnitude << 13) + (112u << 23)));
}

// Round to nearest even; from 65520 on infinity. NaN gives sign | 0x7E00.
MIMO_HD inline uint16_t Fp16FromFloat(float x) {
  const uint32_t bits = FloatBits(x);
  const uint32_t magnitude = bits & ~kFp32Sign;
  const uint32_t sign = bits >> 16 & 0x8000u;
  if (magnitude > kFp32Inf) return static_cast<uint16_t>(sign | kFp16Nan);
  uint32_t half;
  if (magnitude < (113u << 23)) {  // below 2^-14: the sum's last place is 2^-24
    half = FloatBits(FloatFromBits(magnitude) + 0.5f) - FloatBits(0.5f);
  } else {
    half = ((magnitude + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13) - (112u << 10);
    if (half > kFp16Inf) half = kFp16Inf;
  }
  return static_cast<uint16_t>(sign | half);
}

}  // namespace mimo::kernels
