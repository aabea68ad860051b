// E4M3FN: S EEEE MMM, bias 7, largest 448 = 0x7E, no infinity, NaN 0x7F and 0xFF (quantization-formats.md 1.1, 1.2,
// 9.1).
#pragma once

#include "kernels/codec/small_float.h"

namespace mimo::kernels {

inline constexpr float kE4m3Max = 448.0f;
inline constexpr uint8_t kE4m3MaxCode = 0x7E;
inline constexpr uint8_t kE4m3Nan = 0x7F;

MIMO_HD inline bool E4m3IsNan(uint8_t code) {
  return (code & 0x7F) == kE4m3Nan;
}

// Exact. NaN codes give the canonical NaN under their sign.
MIMO_HD inline float E4m3ToFloat(uint8_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x80) << 24;
  const uint32_t magnitude = code & 0x7F;
  if (magnitude == kE4m3Nan) return FloatFromBits(sign | kFp32Nan);
  return FloatFromBits(sign | SmallFloat<3, 7>::Decode(magnitude));
}

// Round to nearest even. Beyond 464 (and for infinities): `saturate` gives 448, otherwise NaN; both keep the sign. NaN
// gives 0x7F.
MIMO_HD inline uint8_t E4m3FromFloat(float x, bool saturate) {
  const uint32_t bits = FloatBits(x);
  const uint32_t magnitude = bits & ~kFp32Sign;
  if (magnitude > kFp32Inf) return kE4m3Nan;
  uint32_t code = SmallFloat<3, 7>::Encode(magnitude);
  if (code > kE4m3MaxCode) code = saturate ? kE4m3MaxCode : kE4m3Nan;
  return static_cast<uint8_t>(code | (bits >> 31 << 7));
}

}  // namespace mimo::kernels
