// E8M0: a power of two, 2^(byte - 127); 255 is NaN, there is no zero (quantization-formats.md 1.1, 1.2, 9.1).
#pragma once

#include "kernels/codec/float_bits.h"

namespace mimo::kernels {

inline constexpr uint8_t kE8m0Nan = 0xFF;

// Exact. Byte 0 is 2^-127, an FP32 subnormal.
MIMO_HD inline float E8m0ToFloat(uint8_t byte) {
  if (byte == kE8m0Nan) return FloatFromBits(kFp32Nan);
  return FloatFromBits(byte == 0 ? 0x00400000u : static_cast<uint32_t>(byte) << 23);
}

// The smallest power of two not below |x|, within 2^-127 .. 2^127. Infinity gives 0xFE, NaN 0xFF, zero 0x00.
MIMO_HD inline uint8_t E8m0RoundUp(float x) {
  const uint32_t magnitude = FloatBits(x) & ~kFp32Sign;
  if (magnitude > kFp32Inf) return kE8m0Nan;
  const uint32_t exponent = magnitude >> 23;
  const uint32_t mantissa = magnitude & 0x7FFFFFu;
  if (exponent == 0) return mantissa > 0x400000u ? 1 : 0;
  const uint32_t byte = exponent + (mantissa != 0 ? 1 : 0);
  return static_cast<uint8_t>(byte > 0xFE ? 0xFE : byte);
}

// The largest power of two not above |x|, within the same range. Infinity gives 0xFE, NaN 0xFF, zero 0x00.
MIMO_HD inline uint8_t E8m0RoundTowardZero(float x) {
  const uint32_t magnitude = FloatBits(x) & ~kFp32Sign;
  if (magnitude > kFp32Inf) return kE8m0Nan;
  const uint32_t exponent = magnitude >> 23;
  return static_cast<uint8_t>(exponent > 0xFE ? 0xFE : exponent);
}

}  // namespace mimo::kernels
