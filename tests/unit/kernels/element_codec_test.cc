// Every code and every way to round, against the definitions; and the published vectors (quantization-formats.md 9.1,
// 9.8).
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "kernels/codec/bf16.h"
#include "kernels/codec/block_scale.h"
#include "kernels/codec/e2m1.h"
#include "kernels/codec/e4m3.h"
#include "kernels/codec/e5m2.h"
#include "kernels/codec/e8m0.h"
#include "kernels/codec/fp16.h"
#include "tests/unit/kernels/reference.h"

namespace mimo::kernels::element_codec_test {
namespace {

using reference::Format;
using reference::kOverflow;

const float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::numeric_limits<float>::quiet_NaN();

bool SameBits(float a, double b) {
  return FloatBits(a) == reference::Bits(static_cast<float>(b));
}

TEST(ElementCodec, E4m3DecodesEveryCode) {
  for (unsigned code = 0; code < 256; ++code) {
    const float value = E4m3ToFloat(static_cast<uint8_t>(code));
    if ((code & 0x7F) == 0x7F) {
      EXPECT_EQ(FloatBits(value), 0x7FC00000u | (code & 0x80) << 24);
    } else {
      EXPECT_TRUE(SameBits(value, std::copysign(reference::Value(reference::kE4m3, code & 0x7F), code & 0x80 ? -1 : 1)))
          << code;
    }
  }
}

TEST(ElementCodec, E5m2DecodesEveryCode) {
  for (unsigned code = 0; code < 256; ++code) {
    const float value = E5m2ToFloat(static_cast<uint8_t>(code));
    const double sign = code & 0x80 ? -1 : 1;
    if ((code & 0x7F) > 0x7C) {
      EXPECT_EQ(FloatBits(value), 0x7FC00000u | (code & 0x80) << 24);
    } else if ((code & 0x7F) == 0x7C) {
      EXPECT_EQ(value, sign * kInf);
    } else {
      EXPECT_TRUE(SameBits(value, std::copysign(reference::Value(reference::kE5m2, code & 0x7F), sign))) << code;
    }
  }
}

TEST(ElementCodec, E8m0AndE2m1DecodeEveryCode) {
  for (int byte = 0; byte < 255; ++byte)
    EXPECT_TRUE(SameBits(E8m0ToFloat(static_cast<uint8_t>(byte)), std::ldexp(1.0, byte - 127)));
  EXPECT_EQ(FloatBits(E8m0ToFloat(0)), 0x00400000u);
  EXPECT_TRUE(std::isnan(E8m0ToFloat(255)));
  const double magnitudes[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  for (unsigned nibble = 0; nibble < 16; ++nibble) {
    EXPECT_TRUE(SameBits(E2m1ToFloat(static_cast<uint8_t>(nibble)),
                         std::copysign(magnitudes[nibble & 7], nibble & 8 ? -1 : 1)));
  }
}

TEST(ElementCodec, Bf16AndFp16DecodeEveryPatternAndReturn) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const uint16_t code = static_cast<uint16_t>(bits);
    EXPECT_EQ(FloatBits(Bf16ToFloat(code)), bits << 16);
    const reference::Element half = reference::DecodePlain(Codec::kFp16, bits);
    if (half.nan_code) {
      ASSERT_EQ(FloatBits(Fp16ToFloat(code)), 0x7FC00000u | (bits & 0x8000) << 16);
      ASSERT_EQ(Fp16FromFloat(Fp16ToFloat(code)), 0x7E00 | (bits & 0x8000));
    } else {
      ASSERT_EQ(FloatBits(Fp16ToFloat(code)), reference::Bits(half.value)) << bits;
      ASSERT_EQ(Fp16FromFloat(Fp16ToFloat(code)), code);
    }
    const bool nan = (bits & 0x7FFF) > 0x7F80;
    ASSERT_EQ(Bf16FromFloat(Bf16ToFloat(code)), nan ? 0x7FC0 | (bits & 0x8000) : bits);
  }
}

// All BF16 and FP16 values, every value and tie of every format with its FP32 neighbours, and random FP32.
std::vector<float> EncoderInputs() {
  std::vector<float> inputs{0.0f, -0.0f, kInf, -kInf, kNan, -kNan, FloatFromBits(1), FloatFromBits(0x7F7FFFFF)};
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    inputs.push_back(Bf16ToFloat(static_cast<uint16_t>(bits)));
    inputs.push_back(reference::DecodePlain(Codec::kFp16, bits).value);
  }
  const auto add_ties = [&](const Format& format, unsigned codes) {
    for (unsigned code = 0; code <= codes; ++code) {
      const double low = reference::Value(format, code);
      const double high = reference::Value(format, code + 1);  // one beyond the largest as well: the overflow boundary
      for (const double x : {low, (low + high) / 2}) {
        const float f = static_cast<float>(x);
        for (const float y : {f, std::nextafterf(f, kInf), std::nextafterf(f, -kInf)}) {
          inputs.push_back(y);
          inputs.push_back(-y);
        }
      }
    }
  };
  add_ties(reference::kE4m3, 0x7E);
  add_ties(reference::kE5m2, 0x7B);
  add_ties(reference::kE2m1, 7);
  add_ties(reference::kFp16, 0x7BFF);
  add_ties(reference::kBf16, 0x7F7F);
  std::mt19937 random(20240607);
  for (int i = 0; i < 400000; ++i) {
    const uint32_t bits = static_cast<uint32_t>(random());
    inputs.push_back(FloatFromBits(bits));
    inputs.push_back(FloatFromBits((bits & 0x807FFFFF) | (100 + (bits >> 8) % 46) << 23));  // around the small formats
  }
  return inputs;
}

unsigned Expected(const Format& format, float x, unsigned nan, unsigned overflow, int sign_bit, bool nan_has_sign) {
  const unsigned sign = std::signbit(x) ? 1u << sign_bit : 0;
  if (std::isnan(x)) return nan | (nan_has_sign ? sign : 0);
  const unsigned code = reference::Nearest(format, x);
  return (code == kOverflow ? overflow : code) | sign;
}

TEST(ElementCodec, EncodersRoundToNearestEven) {
  double powers[255];
  for (int i = 0; i < 255; ++i) powers[i] = std::ldexp(1.0, i - 127);
  for (const float x : EncoderInputs()) {
    const uint32_t bits = FloatBits(x);
    ASSERT_EQ(E4m3FromFloat(x, true), Expected(reference::kE4m3, x, 0x7F, 0x7E, 7, false)) << std::hex << bits;
    ASSERT_EQ(E4m3FromFloat(x, false), Expected(reference::kE4m3, x, 0x7F, 0x7F, 7, false)) << std::hex << bits;
    ASSERT_EQ(E5m2FromFloat(x, true), Expected(reference::kE5m2, x, 0x7F, 0x7B, 7, false)) << std::hex << bits;
    ASSERT_EQ(E5m2FromFloat(x, false), Expected(reference::kE5m2, x, 0x7F, 0x7C, 7, false)) << std::hex << bits;
    ASSERT_EQ(Fp16FromFloat(x), Expected(reference::kFp16, x, 0x7E00, 0x7C00, 15, true)) << std::hex << bits;
    ASSERT_EQ(Bf16FromFloat(x), Expected(reference::kBf16, x, 0x7FC0, 0x7F80, 15, true)) << std::hex << bits;
    ASSERT_EQ(E2m1FromFloat(x), Expected(reference::kE2m1, x, 7, 7, 3, false)) << std::hex << bits;
    if (!std::isfinite(x)) continue;
    const double magnitude = std::fabs(static_cast<double>(x));
    int up = 0, down = 0;  // by searching the powers themselves
    while (up < 254 && powers[up] < magnitude) ++up;
    while (down < 254 && powers[down + 1] <= magnitude) ++down;
    ASSERT_EQ(E8m0RoundUp(x), up) << std::hex << bits;
    ASSERT_EQ(E8m0RoundTowardZero(x), down) << std::hex << bits;
  }
}

struct Golden {
  float x;
  int e4m3, e5m2, e2m1, up, down, e4m3_nosat, e5m2_nosat;
};

TEST(ElementCodec, PublishedScalarVectors) {
  const Golden rows[] = {
      {0.0f, 0x00, 0x00, 0x0, 0x00, 0x00, 0x00, 0x00},
      {-0.0f, 0x80, 0x80, 0x8, 0x00, 0x00, 0x80, 0x80},
      {-0.1f, 0x9D, 0xAE, 0x8, 0x7C, 0x7B, 0x9D, 0xAE},
      {-1.0f, 0xB8, 0xBC, 0xA, 0x7F, 0x7F, 0xB8, 0xBC},
      {0.25f, 0x28, 0x34, 0x0, 0x7D, 0x7D, 0x28, 0x34},
      {0.75f, 0x34, 0x3A, 0x2, 0x7F, 0x7E, 0x34, 0x3A},
      {1.25f, 0x3A, 0x3D, 0x2, 0x80, 0x7F, 0x3A, 0x3D},
      {1.75f, 0x3E, 0x3F, 0x4, 0x80, 0x7F, 0x3E, 0x3F},
      {2.5f, 0x42, 0x41, 0x4, 0x81, 0x80, 0x42, 0x41},
      {3.5f, 0x46, 0x43, 0x6, 0x81, 0x80, 0x46, 0x43},
      {5.0f, 0x4A, 0x45, 0x6, 0x82, 0x81, 0x4A, 0x45},
      {6.0f, 0x4C, 0x46, 0x7, 0x82, 0x81, 0x4C, 0x46},
      {7.0f, 0x4E, 0x47, 0x7, 0x82, 0x81, 0x4E, 0x47},
      {17.0f, 0x58, 0x4C, 0x7, 0x84, 0x83, 0x58, 0x4C},
      {19.0f, 0x5A, 0x4D, 0x7, 0x84, 0x83, 0x5A, 0x4D},
      {0x1p-10f, 0x00, 0x14, 0x0, 0x75, 0x75, 0x00, 0x14},
      {std::nextafterf(0x1p-10f, 1.0f), 0x01, 0x14, 0x0, 0x76, 0x75, 0x01, 0x14},
      {3 * 0x1p-10f, 0x02, 0x1A, 0x0, 0x77, 0x76, 0x02, 0x1A},
      {448.0f, 0x7E, 0x5F, 0x7, 0x88, 0x87, 0x7E, 0x5F},
      {464.0f, 0x7E, 0x5F, 0x7, 0x88, 0x87, 0x7E, 0x5F},
      {464.00003f, 0x7E, 0x5F, 0x7, 0x88, 0x87, 0x7F, 0x5F},
      {61439.996f, 0x7E, 0x7B, 0x7, 0x8F, 0x8E, 0x7F, 0x7B},
      {61440.0f, 0x7E, 0x7B, 0x7, 0x8F, 0x8E, 0x7F, 0x7C},
      {65536.0f, 0x7E, 0x7B, 0x7, 0x8F, 0x8F, 0x7F, 0x7C},
      {0x1p-127f, 0x00, 0x00, 0x0, 0x00, 0x00, 0x00, 0x00},
      {1.5f * 0x1p-127f, 0x00, 0x00, 0x0, 0x01, 0x00, 0x00, 0x00},
      {kInf, 0x7E, 0x7B, 0x7, 0xFE, 0xFE, 0x7F, 0x7C},
      {-kInf, 0xFE, 0xFB, 0xF, 0xFE, 0xFE, 0xFF, 0xFC},
      {kNan, 0x7F, 0x7F, 0x7, 0xFF, 0xFF, 0x7F, 0x7F},
  };
  for (const Golden& row : rows) {
    EXPECT_EQ(E4m3FromFloat(row.x, true), row.e4m3) << row.x;
    EXPECT_EQ(E5m2FromFloat(row.x, true), row.e5m2) << row.x;
    EXPECT_EQ(E2m1FromFloat(row.x), row.e2m1) << row.x;
    EXPECT_EQ(E8m0RoundUp(row.x), row.up) << row.x;
    EXPECT_EQ(E8m0RoundTowardZero(row.x), row.down) << row.x;
    EXPECT_EQ(E4m3FromFloat(row.x, false), row.e4m3_nosat) << row.x;
    EXPECT_EQ(E5m2FromFloat(row.x, false), row.e5m2_nosat) << row.x;
  }
}

TEST(ElementCodec, PublishedBf16Vectors) {
  const struct {
    float x;
    int bits;
  } rows[] = {{1.0f, 0x3F80},   {1.00390625f, 0x3F80}, {1.01171875f, 0x3F82}, {0.1f, 0x3DCD}, {-0.1f, 0xBDCD},
              {1e-40f, 0x0001}, {65504.0f, 0x4780},    {3.4e38f, 0x7F80},     {-0.0f, 0x8000}};
  for (const auto& row : rows) EXPECT_EQ(Bf16FromFloat(row.x), row.bits) << row.x;
}

TEST(BlockScale, TwoRoundingsNotOne) {  // quantization-formats.md 2.1: the FP32 product is rounded before BF16
  EXPECT_EQ(FloatBits(Fp8Value(0x39, FloatFromBits(0x3F6471C8))), 0x3F808000u);
  EXPECT_EQ(Bf16FromFloat(Fp8Value(0x39, FloatFromBits(0x3F6471C8))), 0x3F80);
  const struct {
    uint8_t code;
    uint32_t scale;
    int bf16;
  } rows[] = {
      {0x4D, 0x39F58360, 0x3B47}, {0x3B, 0x3A192DA7, 0x3A53}, {0x7D, 0x39C37E7B, 0x3E1F}, {0x35, 0x39946E58, 0x3971}};
  for (const auto& row : rows) EXPECT_EQ(Bf16FromFloat(Fp8Value(row.code, FloatFromBits(row.scale))), row.bf16);
}

TEST(BlockScale, PublishedQuantizationVectors) {  // 9.8, FP32 scale with the amax floor 1e-12
  const float input[4][4] = {{1, -2, 0.01f, 0.02f}, {3, 0.5f, -0.03f, 0.005f}, {0, 0, 0.001f, 448}, {0, 0, -7, 0.1f}};
  const uint8_t codes[4][4] = {
      {0x71, 0xF9, 0x71, 0x79}, {0x7E, 0x69, 0xFE, 0x69}, {0x00, 0x00, 0x01, 0x7E}, {0x00, 0x00, 0xCE, 0x1D}};
  const uint32_t scales[2][2] = {{0x3BDB6DB7, 0x388C6F2D}, {0x2720D7C5, 0x3F800000}};
  for (int r = 0; r < 4; r += 2) {
    for (int c = 0; c < 4; c += 2) {
      float amax = 0;
      for (int i = 0; i < 4; ++i) amax = std::max(amax, std::fabs(input[r + i / 2][c + i % 2]));
      const float scale = Fp8FreshScale(amax);
      EXPECT_EQ(FloatBits(scale), scales[r / 2][c / 2]);
      for (int i = 0; i < 4; ++i) EXPECT_EQ(Fp8Code(input[r + i / 2][c + i % 2], scale), codes[r + i / 2][c + i % 2]);
    }
  }
}

}  // namespace
}  // namespace mimo::kernels::element_codec_test
