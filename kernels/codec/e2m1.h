// E2M1: S EE M, bias 1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives (quantization-formats.md 1.1, 9.1).
#pragma once

#include "kernels/codec/small_float.h"

namespace mimo::kernels {

// Exact. Only the low four bits of `nibble` count.
MIMO_HD inline float E2m1ToFloat(uint8_t nibble) {
  const uint32_t sign = static_cast<uint32_t>(nibble & 8) << 28;
  return FloatFromBits(sign | SmallFloat<1, 1>::Decode(nibble & 7));
}

// Round to nearest even, saturating at 6; the sign of zero is kept. NaN gives +6 (0x7), as CUDA does.
MIMO_HD inline uint8_t E2m1FromFloat(float x) {
  const uint32_t bits = FloatBits(x);
  const uint32_t magnitude = bits & ~kFp32Sign;
  if (magnitude > kFp32Inf) return 7;
  const uint32_t code = SmallFloat<1, 1>::Encode(magnitude);
  return static_cast<uint8_t>((code > 7 ? 7 : code) | (bits >> 31 << 3));
}

}  // namespace mimo::kernels
