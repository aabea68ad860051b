// E4M3FN: S EEEE MMM, bias 7, largest 448 = 0x7E, no infinity, NaN 0x7F and 0xFF (quantization-formats.md 1.1, 1.2,
// 9.1).
#pragma once

#include "kernels/codec/float_bits.h"

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
  if (magnitude < 8) {  // m * 2^-9: the integer is exact, the factor a power of two
    const float value = static_cast<float>(magnitude) * 0.001953125f;
    return FloatFromBits(sign | FloatBits(value));
  }
  return FloatFromBits(sign | ((magnitude << 20) + (120u << 23)));
}

// Round to nearest even. Beyond 464 (and for infinities): `saturate` gives 448, otherwise NaN; both keep the sign. NaN
// gives 0x7F.
MIMO_HD inline uint8_t E4m3FromFloat(float x, bool saturate) {
  const uint32_t bits = FloatBits(x);
  const uint32_t magnitude = bits & ~kFp32Sign;
  if (magnitude > kFp32Inf) return kE4m3Nan;
  uint32_t code;
  if (magnitude < (121u << 23)) {  // below 2^-6: the sum's last place is 2^-9, so the addition does the rounding
    code = FloatBits(FloatFromBits(magnitude) + 16384.0f) - FloatBits(16384.0f);
  } else {
    code = ((magnitude + 0x7FFFFu + ((magnitude >> 20) & 1u)) >> 20) - (120u << 3);
    if (code > kE4m3MaxCode) code = saturate ? kE4m3MaxCode : kE4m3Nan;
  }
  return static_cast<uint8_t>(code | (bits >> 31 << 7));
}

}  // namespace mimo::kernels
