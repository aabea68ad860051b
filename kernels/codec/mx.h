// MXFP4 and MXFP8: E2M1 or E4M3 elements, one E8M0 scale per 32 columns of a row (quantization-formats.md 4.1, 4.2).
#pragma once

#include "kernels/codec/block_scale.h"
#include "kernels/codec/nvfp4.h"

namespace mimo::kernels {

inline constexpr uint32_t kMxGroup = 32;

// ---- scales: E8M0 bytes from the amax of a group, finite and >= 0

enum class MxElement : uint8_t { kE2m1, kE4m3 };

MIMO_HD inline int MxLargestExponent(MxElement element) {
  return element == MxElement::kE2m1 ? 2 : 8;  // of 6 = 1.5 * 2^2 and 448 = 1.75 * 2^8
}

MIMO_HD inline uint8_t MxByte(int exponent) {
  return static_cast<uint8_t>(exponent < 0 ? 0 : exponent > 0xFE ? 0xFE : exponent);
}

// 2^ceil(log2(amax / max)), from the bits of the FP32 quotient.
MIMO_HD inline uint8_t MxRceilByte(float amax, MxElement element) {
  return E8m0RoundUp(amax / (element == MxElement::kE2m1 ? 6.0f : kE4m3Max));
}

MIMO_HD inline uint8_t MxFloorByte(float amax, MxElement element) {
  return MxByte(static_cast<int>(FloatBits(amax) >> 23) - MxLargestExponent(element));
}

// The mantissa of amax is rounded to that of the element first: up from 1.75 (E2M1) or 1.9375 (E4M3).
MIMO_HD inline uint8_t MxEvenByte(float amax, MxElement element) {
  const uint32_t half = element == MxElement::kE2m1 ? 0x200000u : 0x80000u;
  return MxByte(static_cast<int>((FloatBits(amax) + half) >> 23) - MxLargestExponent(element));
}

MIMO_HD inline uint8_t MxCeilByte(float amax, MxElement element) {
  const uint32_t bits = FloatBits(amax);
  const int up = (bits & 0x7FFFFFu) != 0 ? 1 : 0;
  return MxByte(static_cast<int>(bits >> 23) + up - MxLargestExponent(element));
}

// ---- elements

// 1 / 2^(byte - 127), exactly; byte is not 255. x times it is x / 2^(byte - 127), rounded once either way.
MIMO_HD inline float MxInverse(uint8_t byte) {
  return E8m0ToFloat(static_cast<uint8_t>(0xFE - byte));
}

// Ties to the smaller magnitude.
MIMO_HD inline uint8_t E2m1MagnitudeTowardZero(float scaled) {
  return static_cast<uint8_t>(static_cast<int>(!(scaled <= 0.25f)) + static_cast<int>(!(scaled <= 0.75f)) +
                              static_cast<int>(!(scaled <= 1.25f)) + static_cast<int>(!(scaled <= 1.75f)) +
                              static_cast<int>(!(scaled <= 2.5f)) + static_cast<int>(!(scaled <= 3.5f)) +
                              static_cast<int>(!(scaled <= 5.0f)));
}

// Signs as in Nvfp4Code: that of x' < 0, -0.0 gives 0x0; NaN gives 7 under its sign.
MIMO_HD inline uint8_t Mxfp4Code(float x, uint8_t byte, bool ties_toward_zero) {
  if (IsNan(x)) return static_cast<uint8_t>(FloatBits(x) >> 31 << 3 | 7);
  const float scaled = x * MxInverse(byte);
  const float magnitude = Magnitude(scaled);
  const uint8_t code = ties_toward_zero ? E2m1MagnitudeTowardZero(magnitude) : E2m1Magnitude(magnitude);
  return static_cast<uint8_t>(code | (scaled < 0 ? 8 : 0));
}

// Whether values of which the largest magnitude is `amax`, all finite, stay under a scale that is there already. 7 lies
// between 6 and 8, and the tie would go to 8.
MIMO_HD inline bool Mxfp4ScaleFits(float amax, uint8_t byte) {
  return byte != kE8m0Nan && amax * MxInverse(byte) < 7.0f;
}

// Mxfp4Code under a kept scale, where -0.0 gives 0x8: nibbles that were decoded come back as they were. x is finite.
MIMO_HD inline uint8_t Mxfp4KeptCode(float x, uint8_t byte, bool ties_toward_zero) {
  return static_cast<uint8_t>((Mxfp4Code(x, byte, ties_toward_zero) & 7) | (FloatBits(x) >> 31 << 3));
}

// RNE, saturating; -0.0 gives 0x80, as the cast does; NaN gives 0x7F under its sign.
MIMO_HD inline uint8_t Mxfp8Code(float x, uint8_t byte) {
  if (IsNan(x)) return static_cast<uint8_t>((FloatBits(x) >> 31 << 7) | kE4m3Nan);
  return E4m3FromFloat(x * MxInverse(byte), /*saturate=*/true);
}

// e4m3 * 2^(byte - 127); byte 255 gives NaN under the code's sign.
MIMO_HD inline float Mxfp8Value(uint8_t code, uint8_t byte) {
  return Fp8Value(code, E8m0ToFloat(byte));
}

// ---- exact paths

// Whether an FP32 block scale is a power of two that E8M0 holds, and its byte. Such a block of FP8 is MXFP8 already.
MIMO_HD inline bool Fp8ScaleAsE8m0(float scale, uint8_t* byte) {
  const uint32_t bits = FloatBits(scale);
  if (bits == 0x00400000u) {
    *byte = 0;
    return true;
  }
  if ((bits & 0x807FFFFFu) != 0 || bits == 0 || bits >= kFp32Inf) return false;
  *byte = static_cast<uint8_t>(bits >> 23);
  return true;
}

// NVFP4 -> MXFP4: two neighbouring groups under one multiplier, a power of two under which no element overflows FP32,
// are one MXFP4 group as they are. This is what the exact path of MXFP4 -> NVFP4 makes, so that it has a way back.
MIMO_HD inline bool Nvfp4PairAsE8m0(uint8_t first, uint8_t second, float global, bool global_divides, uint8_t* byte) {
  if (first != second || !(global > 0) || !IsFinite(global)) return false;
  return Fp8ScaleAsE8m0(Nvfp4Multiplier(first, global, global_divides), byte) && *byte <= kMxfp4LargestFinite;
}

// MXFP4 -> block FP8: the groups of a cell whose largest byte is `largest`, each at most kFp8ExactSpan below it, under
// the scale 2^(largest - 127 - 6).
inline constexpr int kFp8ExactSpan = 14;

MIMO_HD inline float Fp8ExactScale(uint8_t largest) {
  return E8m0ToFloat(largest) * 0.015625f;
}

// The E4M3 code of e2m1 * 2^(6 - (largest - byte)). Any span for a zero nibble; its sign is kept.
MIMO_HD inline uint8_t Fp8ExactCode(uint8_t nibble, uint8_t byte, uint8_t largest) {
  const uint8_t sign = static_cast<uint8_t>((nibble & 8) << 4);
  if ((nibble & 7) == 0) return sign;
  const int shift = 6 - (static_cast<int>(largest) - static_cast<int>(byte));
  const float factor = FloatFromBits(static_cast<uint32_t>(shift + 127) << 23);
  return static_cast<uint8_t>(sign | E4m3FromFloat(E2m1ToFloat(nibble & 7) * factor, /*saturate=*/true));
}

}  // namespace mimo::kernels
