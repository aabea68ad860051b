// E2M1: S EE M, bias 1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives (quantization-formats.md 1.1, 9.1).
#pragma once

#include "kernels/codec/float_bits.h"

namespace mimo::kernels {

// Exact. Only the low four bits of `nibble` count.
MIMO_HD inline float E2m1ToFloat(uint8_t nibble) {
  const uint32_t sign = static_cast<uint32_t>(nibble & 8) << 28;
  const uint32_t magnitude = nibble & 7;
  if (magnitude < 2) return FloatFromBits(sign | (magnitude == 0 ? 0u : 126u << 23));
  return FloatFromBits(sign | ((magnitude << 22) + (126u << 23)));
}

// Round to nearest even, saturating at 6; the sign of zero is kept. NaN gives +6 (0x7), as CUDA does.
MIMO_HD inline uint8_t E2m1FromFloat(float x) {
  const uint32_t bits = FloatBits(x);
  const uint32_t magnitude = bits & ~kFp32Sign;
  if (magnitude > kFp32Inf) return 7;
  uint32_t code;
  if (magnitude < (127u << 23)) {  // below 1: the sum's last place is 2^-1
    code = FloatBits(FloatFromBits(magnitude) + 4194304.0f) - FloatBits(4194304.0f);
  } else {
    code = ((magnitude + 0x1FFFFFu + ((magnitude >> 22) & 1u)) >> 22) - (126u << 1);
    if (code > 7) code = 7;
  }
  return static_cast<uint8_t>(code | (bits >> 31 << 3));
}

}  // namespace mimo::kernels
