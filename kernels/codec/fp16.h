// FP16: S EEEEE M10, bias 15, largest 65504 = 0x7BFF (quantization-formats.md 1.1, 1.2).
#pragma once

#include "kernels/codec/small_float.h"

namespace mimo::kernels {

inline constexpr uint16_t kFp16Inf = 0x7C00;
inline constexpr uint16_t kFp16Nan = 0x7E00;

// Exact. NaN gives the canonical NaN under its sign.
MIMO_HD inline float Fp16ToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t magnitude = half & 0x7FFF;
  if (magnitude > kFp16Inf) return FloatFromBits(sign | kFp32Nan);
  if (magnitude == kFp16Inf) return FloatFromBits(sign | kFp32Inf);
  return FloatFromBits(sign | SmallFloat<10, 15>::Decode(magnitude));
}

// Round to nearest even; from 65520 on infinity. NaN gives sign | 0x7E00.
MIMO_HD inline uint16_t Fp16FromFloat(float x) {
  const uint32_t bits = FloatBits(x);
  const uint32_t magnitude = bits & ~kFp32Sign;
  const uint32_t sign = bits >> 16 & 0x8000u;
  if (magnitude > kFp32Inf) return static_cast<uint16_t>(sign | kFp16Nan);
  const uint32_t half = SmallFloat<10, 15>::Encode(magnitude);
  return static_cast<uint16_t>(sign | (half > kFp16Inf ? kFp16Inf : half));
}

}  // namespace mimo::kernels
