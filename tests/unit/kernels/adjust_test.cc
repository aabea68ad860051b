// Codes in another range: every code under every rule, against arithmetic on the decoded values that knows nothing of
// the codecs; and matrices turned over, element by element.
#include "kernels/adjust.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/codec/e4m3_adjust.h"
#include "tests/unit/kernels/reference.h"

namespace mimo::kernels::adjust_test {
namespace {

std::vector<Isa> Isas() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512})
    if (IsaAvailable(isa)) isas.push_back(isa);
  return isas;
}

// Of magnitudes 0 .. 0x7E, from the definition of the format.
double ValueOf(unsigned magnitude) {
  const int exponent = static_cast<int>(magnitude >> 3), mantissa = static_cast<int>(magnitude & 7);
  return exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
}

// The magnitude nearest to x >= 0, even codes at ties, by trying all of them.
unsigned NearestMagnitude(double x) {
  unsigned best = 0;
  for (unsigned m = 1; m <= 0x7E; ++m) {
    const double better = std::fabs(ValueOf(m) - x), now = std::fabs(ValueOf(best) - x);
    if (better < now || (better == now && m % 2 == 0)) best = m;
  }
  return best;
}

// Rounded to `bits` significant bits, ties to even; no subnormals in this range.
double RoundedTo(int bits, double x) {
  if (x == 0) return 0;
  int exponent = 0;
  const double fraction = std::frexp(x, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(fraction, bits)), exponent - bits);
}

TEST(Adjust, HalvingLosesOneBitOfOddCodesBelowTwoToTheMinusFive) {
  unsigned lost = 0;
  for (unsigned code = 0; code < 256; ++code) {
    const AdjustedCode got = HalveCode(static_cast<uint8_t>(code));
    EXPECT_FALSE(got.overflow);
    if ((code & 0x7F) == 0x7F) {
      EXPECT_EQ(got.code, code);
      EXPECT_FALSE(got.inexact);
      continue;
    }
    const double half = ValueOf(code & 0x7F) / 2;
    EXPECT_EQ(got.code, (code & 0x80) | NearestMagnitude(half)) << code;
    EXPECT_EQ(got.inexact, ValueOf(got.code & 0x7F) != half) << code;
    EXPECT_LE(got.code & 0x7F, kNeuronMaxCode);
    lost += got.inexact;
  }
  EXPECT_EQ(lost, 2u * 8);  // 1, 3 .. 15 under both signs
}

TEST(Adjust, DoublingUndoesHalvingAndTellsOverflow) {
  unsigned beyond = 0;
  for (unsigned code = 0; code < 256; ++code) {
    const auto byte = static_cast<uint8_t>(code);
    const AdjustedCode got = DoubleCode(byte);
    EXPECT_FALSE(got.inexact);
    if ((code & 0x7F) == 0x7F) {
      EXPECT_EQ(got.code, code);
      EXPECT_FALSE(got.overflow);
      continue;
    }
    const double twice = 2 * ValueOf(code & 0x7F);
    EXPECT_EQ(got.overflow, twice > 448) << code;
    EXPECT_EQ(got.code, (code & 0x80) | (twice > 448 ? 0x7Eu : NearestMagnitude(twice))) << code;
    beyond += got.overflow;
    if (const AdjustedCode half = HalveCode(byte); !half.inexact) {
      EXPECT_EQ(DoubleCode(half.code).code, byte);
    }
  }
  EXPECT_EQ(beyond, 2u * 8);  // 0x77 = 240 and more: what halving gives ends at 0x76
}

TEST(Adjust, TheNeuronRuleRoundsToBf16AndThenToTheCode) {
  const double factor = RoundedTo(24, 448.0 / 240.0);
  for (unsigned code = 0; code < 256; ++code) {
    const AdjustedCode got = NeuronCode(static_cast<uint8_t>(code));
    if ((code & 0x7F) == 0x7F) {
      EXPECT_EQ(got.code, code);
      EXPECT_FALSE(got.inexact);
      continue;
    }
    const double value = ValueOf(code & 0x7F);
    const double quotient = RoundedTo(8, RoundedTo(24, value / factor));
    EXPECT_EQ(got.code, (code & 0x80) | NearestMagnitude(quotient)) << code;
    EXPECT_LE(got.code & 0x7F, kNeuronMaxCode);
    EXPECT_EQ(got.inexact, ValueOf(got.code & 0x7F) * 28 != value * 15) << code;
  }
  EXPECT_EQ(NeuronCode(0x7E).code, 0x77);
  EXPECT_FALSE(NeuronCode(0x7E).inexact);
}

// Made by the published expression in torch 2.15.0 (NaN left out): (codes.bfloat16() / (448.0 /
// 240.0)).to(torch.float8_e4m3fn).
TEST(Adjust, TheNeuronRuleGivesTheBytesOfTorch) {
  const uint8_t torch[127] = {
      0x00, 0x01, 0x01, 0x02, 0x02, 0x03, 0x03, 0x04, 0x04, 0x05, 0x05, 0x06, 0x06, 0x07, 0x08, 0x08, 0x09, 0x0A, 0x0B,
      0x0C, 0x0D, 0x0E, 0x0F, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x1B, 0x1C, 0x1D, 0x1E,
      0x1F, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2A, 0x2B, 0x2C, 0x2D, 0x2E, 0x2F, 0x30, 0x31,
      0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3A, 0x3B, 0x3C, 0x3D, 0x3E, 0x3F, 0x40, 0x41, 0x42, 0x43, 0x44,
      0x45, 0x46, 0x47, 0x48, 0x49, 0x4A, 0x4B, 0x4C, 0x4D, 0x4E, 0x4F, 0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57,
      0x58, 0x59, 0x5A, 0x5B, 0x5C, 0x5D, 0x5E, 0x5F, 0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6A,
      0x6B, 0x6C, 0x6D, 0x6E, 0x6F, 0x70, 0x71, 0x72, 0x73, 0x74, 0x75, 0x76, 0x77};
  for (unsigned code = 0; code < 127; ++code) {
    EXPECT_EQ(NeuronCode(static_cast<uint8_t>(code)).code, torch[code]) << code;
    EXPECT_EQ(NeuronCode(static_cast<uint8_t>(code | 0x80)).code, torch[code] | 0x80) << code;
  }
}

TEST(Adjust, EveryInstructionSetGivesTheDefinition) {
  std::vector<uint8_t> all(4096);
  std::mt19937 random(1);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint8_t>(i < 256 ? i : random());
  for (const CodeRule rule : {CodeRule::kHalve, CodeRule::kDouble, CodeRule::kNeuron}) {
    for (const size_t n :
         {size_t{0}, size_t{1}, size_t{31}, size_t{32}, size_t{33}, size_t{256}, size_t{1000}, all.size() - 3}) {
      for (const size_t at : {size_t{0}, size_t{3}}) {
        std::vector<uint8_t> want(n);
        CodeCounts counts;
        for (size_t i = 0; i < n; ++i) {
          const uint8_t code = all[at + i];
          const AdjustedCode one = rule == CodeRule::kHalve    ? HalveCode(code)
                                   : rule == CodeRule::kDouble ? DoubleCode(code)
                                                               : NeuronCode(code);
          want[i] = one.code;
          counts += {one.inexact, one.overflow};
        }
        for (const Isa isa : Isas()) {
          std::vector<uint8_t> out(n + 8, 0xEE);
          EXPECT_EQ(AdjustCodes(rule, all.data() + at, out.data() + 4, n, isa), counts) << IsaName(isa) << " " << n;
          EXPECT_TRUE(std::equal(want.begin(), want.end(), out.begin() + 4)) << IsaName(isa) << " " << n;
          EXPECT_EQ(out[3], 0xEE);
          EXPECT_EQ(out[n + 4], 0xEE);
          std::vector<uint8_t> in_place(all.begin() + static_cast<std::ptrdiff_t>(at),
                                        all.begin() + static_cast<std::ptrdiff_t>(at + n));
          EXPECT_EQ(AdjustCodes(rule, in_place.data(), in_place.data(), n, isa), counts);
          EXPECT_EQ(in_place, want);
        }
      }
    }
  }
}

TEST(Adjust, TransposesAnyShapeAndLeavesTheRestAlone) {
  const std::vector<std::pair<uint64_t, uint64_t>> shapes = {{1, 1},   {1, 200}, {200, 1}, {16, 16},  {64, 64},
                                                             {17, 33}, {63, 65}, {65, 63}, {128, 96}, {131, 257}};
  std::mt19937 random(2);
  for (const uint32_t element : {1u, 2u, 4u}) {
    for (const auto& [rows, cols] : shapes) {
      const uint64_t in_stride = cols * element + 5, out_stride = rows * element + 7;
      std::vector<uint8_t> in(in_stride * rows + 3), clean(out_stride * cols + 9, 0xEE);
      for (uint8_t& byte : in) byte = static_cast<uint8_t>(random());
      std::vector<uint8_t> want = clean;
      for (uint64_t r = 0; r < rows; ++r)
        for (uint64_t c = 0; c < cols; ++c)
          for (uint64_t b = 0; b < element; ++b)
            want[1 + c * out_stride + r * element + b] = in[3 + r * in_stride + c * element + b];
      for (const Isa isa : Isas()) {
        std::vector<uint8_t> out = clean;
        Transpose(in.data() + 3, in_stride, rows, cols, element, out.data() + 1, out_stride, isa);
        ASSERT_EQ(out, want) << IsaName(isa) << " " << rows << " x " << cols << " of " << element;
      }
    }
  }
}

}  // namespace
}  // namespace mimo::kernels::adjust_test
