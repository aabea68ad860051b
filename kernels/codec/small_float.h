// Numbers of few bits, S E..E M..M, as they are to FP32 and back: what E2M1, E4M3, E5M2 and FP16 share. Signs, and
// codes that are no numbers, are the caller's.
#pragma once

#include "kernels/codec/float_bits.h"

namespace mimo::kernels {

template <int kMantissaBits, int kBias>
struct SmallFloat {
  static constexpr float kLeast = 1.0f / (1u << (kBias + kMantissaBits - 1));  // the least subnormal number
  static constexpr int kDropped = 23 - kMantissaBits;                          // bits that FP32 has below

  // The bits of a magnitude code as FP32. Exact.
  MIMO_HD static uint32_t Decode(uint32_t magnitude) {
    if (magnitude < 1u << kMantissaBits) return FloatBits(static_cast<float>(magnitude) * kLeast);
    return (magnitude << kDropped) + ((127u - kBias) << 23);
  }

  // The magnitude code of the bits of a magnitude that is not NaN, rounded to even. Codes go on beyond the largest.
  MIMO_HD static uint32_t Encode(uint32_t magnitude) {
    if (magnitude < (128u - kBias) << 23) {  // subnormal: the sum's last place is kLeast, so the addition rounds
      constexpr float kShift = 8388608.0f * kLeast;
      return FloatBits(FloatFromBits(magnitude) + kShift) - FloatBits(kShift);
    }
    const uint32_t to_even = (1u << (kDropped - 1)) - 1 + (magnitude >> kDropped & 1u);
    return ((magnitude + to_even) >> kDropped) - ((127u - kBias) << kMantissaBits);
  }
};

}  // namespace mimo::kernels
