#include "lib/verify/compare/local_step.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace mimo {
namespace {

using kernels::Codec;

constexpr std::array<double, 8> kE2m1 = {0, 0.5, 1, 1.5, 2, 3, 4, 6};

// The gap above or below a magnitude of a format with so many bits of mantissa, whose smallest normal is 2^least.
double BinaryGap(double magnitude, bool up, int mantissa, int least) {
  if (magnitude == 0) return std::ldexp(1.0, least - mantissa);
  int exponent = 0;
  const double fraction = std::frexp(magnitude, &exponent);  // in [0.5, 1)
  exponent = std::max(exponent - 1, least);
  const bool first = fraction == 0.5 && exponent > least;
  return std::ldexp(1.0, exponent - mantissa - (!up && first ? 1 : 0));
}

double E2m1Gap(double magnitude, bool up) {
  size_t at = 0;
  for (size_t i = 1; i < kE2m1.size(); ++i)
    if (std::abs(kE2m1[i] - magnitude) < std::abs(kE2m1[at] - magnitude)) at = i;
  if (at + 1 == kE2m1.size()) return kE2m1[at] - kE2m1[at - 1];
  if (up || at == 0) return kE2m1[at + 1] - kE2m1[at];
  return kE2m1[at] - kE2m1[at - 1];
}

double LargestOf(Codec codec) {
  switch (codec) {
    case Codec::kNvfp4:
    case Codec::kMxfp4:
      return 6;
    case Codec::kFp8Block:
    case Codec::kMxfp8:
      return 448;
    case Codec::kFp32:
    case Codec::kFp16:
    case Codec::kBf16:
      break;
  }
  return HUGE_VAL;
}

}  // namespace

int Coarseness(Codec codec) {
  switch (codec) {
    case Codec::kFp32:
      return 0;
    case Codec::kFp16:
      return 1;
    case Codec::kBf16:
      return 2;
    case Codec::kFp8Block:
      return 3;
    case Codec::kMxfp8:
      return 4;
    case Codec::kNvfp4:
      return 5;
    case Codec::kMxfp4:
      return 6;
  }
  return 0;
}

double HalfStep(Codec codec, float value, float multiplier, float other) {
  const bool up = std::abs(other) >= std::abs(value) && (value == 0 || std::signbit(other) == std::signbit(value));
  const double unit = std::abs(static_cast<double>(multiplier));
  const double magnitude = unit == 0 ? 0 : std::abs(static_cast<double>(value)) / unit;
  switch (codec) {
    case Codec::kNvfp4:
    case Codec::kMxfp4:
      return unit * E2m1Gap(magnitude, up) / 2;
    case Codec::kFp8Block:
    case Codec::kMxfp8:
      // A quotient of FP32 values is not quite the code: it is brought back to three bits of mantissa.
      return unit * BinaryGap(std::ldexp(std::round(std::ldexp(magnitude, 12)), -12), up, 3, -6) / 2;
    case Codec::kFp32:
      return unit * BinaryGap(magnitude, up, 23, -126) / 2;
    case Codec::kFp16:
      return unit * BinaryGap(magnitude, up, 10, -14) / 2;
    case Codec::kBf16:
      return unit * BinaryGap(magnitude, up, 7, -126) / 2;
  }
  return 0;
}

bool IsClipped(Codec codec, float value, float multiplier, float other) {
  const double unit = std::abs(static_cast<double>(multiplier));
  if (unit == 0 || std::signbit(value) != std::signbit(other)) return false;
  return std::abs(static_cast<double>(value)) >= unit * LargestOf(codec) * (1 - 1e-6) &&
         std::abs(other) > std::abs(value);
}

}  // namespace mimo
