// E5M2: S EEEEE MM, bias 15, largest 57344 = 0x7B, infinity 0x7C (quantization-formats.md 1.1, 1.2, 9.1).
#pragma once

#include "kernels/codec/small_float.h"

namespace mimo::kernels {

inline constexpr uint8_t kE5m2MaxCode = 0x7B;
inline constexpr uint8_t kE5m2Inf = 0x7C;
inline constexpr uint8_t kE5m2Nan = 0x7F;

// Exact. NaN codes give the canonical NaN under their sign.
MIMO_HD inline float E5m2ToFloat(uint8_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x80) << 24;
  const uint32_t magnitude = code & 0x7F;
  if (magnitude > kE5m2Inf) return FloatFromBits(sign | kFp32Nan);
  if (magnitude == kE5m2Inf) return FloatFromBits(sign | kFp32Inf);
  return FloatFromBits(sign | SmallFloat<2, 15>::Decode(magnitude));
}

// Round to nearest even. From 61440 on (and for infinities): `saturate` gives 57344, otherwise infinity. NaN gives
// 0x7F.
MIMO_HD inline uint8_t E5m2FromFloat(float x, bool saturate) {
  const uint32_t bits = FloatBits(x);
  const uint32_t magnitude = bits & ~kFp32Sign;
  if (magnitude > kFp32Inf) return kE5m2Nan;
  uint32_t code = SmallFloat<2, 15>::Encode(magnitude);
  if (code > kE5m2MaxCode) code = saturate ? kE5m2MaxCode : kE5m2Inf;
  return static_cast<uint8_t>(code | (bits >> 31 << 7));
}

}  // namespace mimo::kernels
