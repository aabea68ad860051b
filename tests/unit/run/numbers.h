// Number formats by definition, for ground truth: slow, and sharing nothing with kernels/.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace mimo::lab {

// E4M3FN: 4 exponent bits with bias 7, 3 mantissa bits, no infinities.
inline float E4m3(uint8_t code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return static_cast<float>(code & 0x80 ? -magnitude : magnitude);
}

// The E4M3 code nearest to `x` of magnitude at most 448, ties to the even mantissa.
inline uint8_t NearestE4m3(double x) {
  const uint8_t sign = std::signbit(x) ? 0x80 : 0;
  uint8_t best = 0;
  for (uint8_t code = 1; code < 0x7F; ++code) {
    const double a = std::fabs(std::fabs(x) - E4m3(code)), b = std::fabs(std::fabs(x) - E4m3(best));
    if (a < b || (a == b && code % 2 == 0)) best = code;
  }
  return best | sign;
}

// Rounds to BF16, ties to even: of the two neighbours the nearer one.
inline uint16_t ToBf16(float value) {
  const uint32_t down = std::bit_cast<uint32_t>(value) & 0xFFFF0000u;
  const double low = std::bit_cast<float>(down), high = std::bit_cast<float>(down + 0x10000u);
  const double below = std::fabs(value - low), above = std::fabs(high - value);
  const auto code = static_cast<uint16_t>(down >> 16);
  if (below != above) return below < above ? code : static_cast<uint16_t>(code + 1);
  return code % 2 == 0 ? code : static_cast<uint16_t>(code + 1);
}

inline float E2m1(uint8_t nibble) {
  static constexpr float kMagnitudes[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  return nibble & 8 ? -kMagnitudes[nibble & 7] : kMagnitudes[nibble & 7];
}

inline float FloatAt(const uint8_t* bytes) {
  float value = 0;
  std::memcpy(&value, bytes, 4);
  return value;
}

}  // namespace mimo::lab
