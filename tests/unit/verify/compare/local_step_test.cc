// Half steps are those of the codecs' definitions.
#include "lib/verify/compare/local_step.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/codec/e4m3.h"

namespace mimo::local_step_test {
namespace {

using kernels::Codec;

TEST(HalfStep, OfE4m3IsHalfTheWayToTheNextCode) {
  for (const float scale : {1.0f, 0.00123f, 77.0f})
    for (uint8_t code = 0; code < kernels::kE4m3MaxCode; ++code) {
      const float here = kernels::E4m3ToFloat(code) * scale, next = kernels::E4m3ToFloat(code + 1) * scale;
      EXPECT_NEAR(HalfStep(Codec::kFp8Block, here, scale, next) / ((next - here) / 2), 1, 1e-4) << int{code};
      EXPECT_NEAR(HalfStep(Codec::kFp8Block, next, scale, here) / ((next - here) / 2), 1, 1e-4) << int{code};
      EXPECT_NEAR(HalfStep(Codec::kFp8Block, -here, scale, -next) / ((next - here) / 2), 1, 1e-4) << int{code};
    }
}

TEST(HalfStep, OfE2m1) {
  EXPECT_EQ(HalfStep(Codec::kNvfp4, 0, 1, 0.1f), 0.25);
  EXPECT_EQ(HalfStep(Codec::kMxfp4, 2, 1, 2.4f), 0.5);
  EXPECT_EQ(HalfStep(Codec::kMxfp4, 2, 1, 1.9f), 0.25);
  EXPECT_EQ(HalfStep(Codec::kMxfp4, 6, 1, 7), 1.0);  // as from the value before
  EXPECT_EQ(HalfStep(Codec::kMxfp4, 6, 0.5f, 2.9f), 0.5 * HalfStep(Codec::kMxfp4, 12, 1, 5.8f));
  EXPECT_EQ(HalfStep(Codec::kMxfp4, 1, 0, 2), 0);
}

TEST(HalfStep, OfBf16AndTheOthers) {
  EXPECT_EQ(HalfStep(Codec::kBf16, 1, 1, 2), 0x1p-8);
  EXPECT_EQ(HalfStep(Codec::kBf16, 1, 1, 0.5f), 0x1p-9);
  EXPECT_EQ(HalfStep(Codec::kFp16, 1, 1, 2), 0x1p-11);
  EXPECT_EQ(HalfStep(Codec::kFp32, 1, 1, 2), 0x1p-24);
}

TEST(IsClipped, TheLargestValueAlone) {
  EXPECT_TRUE(IsClipped(Codec::kFp8Block, 448, 1, 500));
  EXPECT_FALSE(IsClipped(Codec::kFp8Block, 416, 1, 500));
  EXPECT_FALSE(IsClipped(Codec::kFp8Block, 448, 1, 440));
  EXPECT_FALSE(IsClipped(Codec::kFp8Block, -448, 1, 500));
  EXPECT_TRUE(IsClipped(Codec::kNvfp4, -3, 0.5f, -4));
  EXPECT_FALSE(IsClipped(Codec::kBf16, 3, 1, 4));
}

TEST(Coarseness, GrowsFromF32ToFourBits) {
  EXPECT_LT(Coarseness(Codec::kFp32), Coarseness(Codec::kBf16));
  EXPECT_LT(Coarseness(Codec::kBf16), Coarseness(Codec::kFp8Block));
  EXPECT_LT(Coarseness(Codec::kMxfp8), Coarseness(Codec::kNvfp4));
}

}  // namespace
}  // namespace mimo::local_step_test
