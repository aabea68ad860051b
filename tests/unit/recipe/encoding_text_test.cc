// Encodings in words and back.
#include "lib/recipe/encoding_text.h"

#include <gtest/gtest.h>

namespace mimo::encoding_text_test {
namespace {

using kernels::Codec;
using kernels::Encoding;
using kernels::ScaleRule;

TEST(EncodingText, EveryOptionIsSaidAndReadBack) {
  const std::pair<Encoding, std::string> kTexts[] = {
      {{.codec = Codec::kNvfp4, .rule = ScaleRule::kSweep, .via_bf16 = true}, "nvfp4 sweep via-bf16"},
      {{.codec = Codec::kMxfp4, .rule = ScaleRule::kFloor, .ties = kernels::Ties::kTowardZero},
       "mxfp4 floor ties-to-zero"},
      {{.codec = Codec::kFp8Block}, "fp8 128x128"},
      {{.codec = Codec::kFp8Block, .block_rows = 64, .power_of_two = true}, "fp8 64x128 ue8m0"},
      {{.codec = Codec::kFp8Block, .block_rows = 1, .block_cols = 24576, .neuron = true}, "fp8 1x24576 neuron"},
      {{.codec = Codec::kFp8Block, .neuron = true, .via_bf16 = true}, "fp8 128x128 neuron via-bf16"},
  };
  for (const auto& [encoding, text] : kTexts) {
    EXPECT_EQ(EncodingText(encoding), text);
    const std::optional<Encoding> back = EncodingFromText(text);
    ASSERT_TRUE(back.has_value()) << text;
    EXPECT_EQ(*back, encoding) << text;
  }
  for (const char* text :
       {"fp8 128x128 neuron neuron", "fp8 128x128 via-bf16 neuron", "nvfp4 max neuron", "fp8 neuron"})
    EXPECT_FALSE(EncodingFromText(text).has_value()) << text;
}

}  // namespace
}  // namespace mimo::encoding_text_test
