// BF16: the upper half of FP32 (quantization-formats.md 1.1, 1.2).
#pragma once

#include "kernels/codec/float_bits.h"

namespace mimo::kernels {

inline constexpr uint16_t kBf16Inf = 0x7F80;
inline constexpr uint16_t kBf16Nan = 0x7FC0;

// Exact; NaN payloads are kept.
MIMO_HD inline float Bf16ToFloat(uint16_t bits) {
  return FloatFromBits(static_cast<uint32_t>(bits) << 16);
}

// Round to nearest even; from 0x7F7F8000 on infinity. NaN gives sign | 0x7FC0.
MIMO_HD inline uint16_t Bf16FromFloat(float x) {
  const uint32_t bits = FloatBits(x);
  if (IsNan(x)) return static_cast<uint16_t>((bits >> 16 & 0x8000u) | kBf16Nan);
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace mimo::kernels
