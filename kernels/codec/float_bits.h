// FP32 as bits, the same on host and device; and MIMO_HD, which makes a codec usable from both.
// On the host it also forces inlining: translation units built for different instruction sets must not share an
// out-of-line copy.
#pragma once

#include <bit>
#include <cstdint>

#ifdef __CUDACC__
#define MIMO_HD __host__ __device__
#else
#define MIMO_HD [[gnu::always_inline]]
#endif

namespace mimo::kernels {

static_assert(std::endian::native == std::endian::little, "checkpoints and kernels are little-endian");

inline constexpr uint32_t kFp32Sign = 0x80000000u;
inline constexpr uint32_t kFp32Inf = 0x7F800000u;
inline constexpr uint32_t kFp32Nan = 0x7FC00000u;  // what every NaN result is written as, under its sign

MIMO_HD inline uint32_t FloatBits(float x) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(x);
#else
  return __builtin_bit_cast(uint32_t, x);
#endif
}

MIMO_HD inline float FloatFromBits(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  return __builtin_bit_cast(float, bits);
#endif
}

MIMO_HD inline bool IsNan(float x) {
  return (FloatBits(x) & ~kFp32Sign) > kFp32Inf;
}
MIMO_HD inline bool IsInf(float x) {
  return (FloatBits(x) & ~kFp32Sign) == kFp32Inf;
}
MIMO_HD inline bool IsFinite(float x) {
  return (FloatBits(x) & ~kFp32Sign) < kFp32Inf;
}

// The canonical NaN under the sign of x; any other x unchanged.
MIMO_HD inline float CanonicalNan(float x) {
  return IsNan(x) ? FloatFromBits((FloatBits(x) & kFp32Sign) | kFp32Nan) : x;
}

// `result`, a product or a quotient of a and b. A NaN result gets the product of the signs: hardware disagrees about
// it, so it is fixed here.
MIMO_HD inline float WithSignOfNan(float result, float a, float b) {
  return IsNan(result) ? FloatFromBits(((FloatBits(a) ^ FloatBits(b)) & kFp32Sign) | kFp32Nan) : result;
}

}  // namespace mimo::kernels
