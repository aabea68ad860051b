// The plan under construction: outputs that are like others, and outputs that are taken out again.
#include "lib/draft/builder.h"

#include <gtest/gtest.h>

#include "tests/unit/plan/kept_plan.h"

namespace mimo {
namespace {

using namespace kept_plan;

TEST(PlanBuilder, TakingOutputsOutFollowsTheScales) {
  const Catalogue catalogue = MakeCatalogue();
  const Inventory inventory;
  PlanBuilder builder(catalogue, inventory);
  for (uint32_t i = 0; i < catalogue.arrays.size(); ++i) {
    Weight weight;
    weight.array = i;
    if (ValueCodecOf(catalogue.arrays[i].dtype)) {
      builder.DecodedSource(weight);
    } else {
      builder.Source(i);
    }
  }
  const auto request = [&](const char* name, Codec codec, uint32_t keep, std::vector<Piece> pieces, int64_t rows,
                           int64_t cols) {
    EncodedRequest made;
    made.name = std::string(name) + ".weight";
    made.rows = rows;
    made.cols = cols;
    made.encoding.codec = codec;
    made.encoding.rule = codec == Codec::kMxfp4 ? kernels::ScaleRule::kRceil : kernels::ScaleRule::kMax;
    made.pieces = std::move(pieces);
    made.keep = keep;
    builder.BeginGroup(name);
    builder.AddEncoded(made, 0);
  };
  request("o", Codec::kFp8Block, kOKeep, {{kO0, 0, 0, 130}}, 130, 40);
  request("x", Codec::kMxfp4, kXKeep, {{kX, 0, 0, 6}}, 6, 64);
  ASSERT_EQ(builder.plan().groups[1].encoded[0].keep, uint32_t{kXKeep});
  std::vector<uint32_t> dropped;
  builder.RemoveOutputs({1, 1, 0, 0}, [&](uint32_t array, uint32_t) { dropped.push_back(array); });
  const Plan& plan = builder.plan();
  ASSERT_EQ(plan.groups.size(), 1u);
  ASSERT_EQ(plan.sources.size(), 2u);
  EXPECT_EQ(plan.sources[plan.groups[0].encoded[0].keep].array, uint32_t{kXKeep});
  EXPECT_EQ(dropped, (std::vector<uint32_t>{kO0, kO1, kOKeep, kK, kV, kKvKeep, kCodes, kCodesScale}));
}

TEST(OutputLike, AStoredArrayGivesItsNameAndShapeAndNoPieces) {
  StoredArray stored;
  stored.name = "w";
  stored.id = {Role::kExpertDown, Part::kScale, true, 3, 4};
  stored.dtype = DType::kF16;
  stored.shape = {2, 3};
  const OutputArray output = OutputLike(stored);
  EXPECT_EQ(output.name, "w");
  EXPECT_EQ(output.id, stored.id);
  EXPECT_EQ(output.dtype, DType::kF16);
  EXPECT_EQ(output.shape, stored.shape);
  EXPECT_TRUE(output.pieces.empty());
  EXPECT_FALSE(output.unchanged);
}

TEST(OutputLike, AnOutputGivesHowItIsMadeAndNotWhatItIs) {
  OutputArray other;
  other.name = "w";
  other.id = {Role::kExpertDown, Part::kScale, true, 3, 4};
  other.dtype = DType::kF32;
  other.shape = {2, 3};
  other.transform = Transform::kConvert;
  other.target_codec = Codec::kFp32;
  other.adjust = Adjust::kScale;
  other.factor = 2;
  other.pad = "abcd";
  other.unchanged = true;
  other.pieces = {{0, 0, 0, 2}};
  other.begin = 8;
  other.end = 32;
  const OutputArray output = OutputLike(other);
  EXPECT_EQ(output.id, other.id);
  EXPECT_EQ(output.dtype, other.dtype);
  EXPECT_EQ(output.transform, other.transform);
  EXPECT_EQ(output.target_codec, other.target_codec);
  EXPECT_EQ(output.adjust, other.adjust);
  EXPECT_EQ(output.factor, other.factor);
  EXPECT_EQ(output.pad, other.pad);
  EXPECT_TRUE(output.name.empty() && output.shape.empty() && output.pieces.empty());
  EXPECT_FALSE(output.unchanged);
  EXPECT_EQ(output.end, 0u);
}

}  // namespace
}  // namespace mimo
