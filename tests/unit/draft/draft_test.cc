// The plan under construction: outputs that are like others, and outputs that are erased again.
#include "lib/draft/draft.h"

#include <gtest/gtest.h>

#include "lib/draft/placement.h"
#include "tests/unit/plan/kept_plan.h"

namespace mimo::draft_test {
namespace {

using namespace kept_plan;

// A draft with every array of kept_plan as a source, in catalogue order.
Draft WithSources(const Catalogue& catalogue, const Inventory& inventory) {
  Draft draft(catalogue, inventory);
  for (uint32_t i = 0; i < catalogue.arrays.size(); ++i) {
    Weight weight;
    weight.array = i;
    if (ValueCodecOf(catalogue.arrays[i].dtype)) {
      draft.DecodedSource(weight);
    } else {
      draft.Source(i);
    }
  }
  return draft;
}

EncodedRequest Request(const char* name, Codec codec, uint32_t keep, std::vector<Piece> pieces, int64_t rows,
                       int64_t cols) {
  EncodedRequest made;
  made.name = std::string(name) + ".weight";
  made.rows = rows;
  made.cols = cols;
  made.encoding.codec = codec;
  made.encoding.rule = codec == Codec::kMxfp4 ? kernels::ScaleRule::kRceil : kernels::ScaleRule::kMax;
  made.pieces = std::move(pieces);
  made.keep = keep;
  return made;
}

std::vector<uint32_t> Arrays(const Plan& plan) {
  std::vector<uint32_t> arrays;
  for (const SourceArray& source : plan.sources) arrays.push_back(source.array);
  return arrays;
}

TEST(Draft, AGroupThatIsErasedTakesItsSourcesAlong) {
  const Catalogue catalogue = MakeCatalogue();
  const Inventory inventory;
  Draft draft = WithSources(catalogue, inventory);
  draft.BeginGroup("o");
  draft.AddEncoded(Request("o", Codec::kFp8Block, kOKeep, {{kO0, 0, 0, 130}}, 130, 40), 0);
  draft.BeginGroup("x");
  draft.AddEncoded(Request("x", Codec::kMxfp4, kXKeep, {{kX, 0, 0, 6}}, 6, 64), 0);
  draft.equal.push_back({kK, kX, 0, 0, 1});  // one of the two is not read
  draft.equal.push_back({kXKeep, kX, 0, 0, 1});
  ASSERT_EQ(draft.group().encoded[0].keep, uint32_t{kXKeep});
  draft.groups.erase(draft.groups.begin());
  const Plan plan = PlaceOutputs(std::move(draft), {});
  ASSERT_EQ(plan.groups.size(), 1u);
  EXPECT_EQ(Arrays(plan), (std::vector<uint32_t>{kX, kXKeep}));
  EXPECT_EQ(plan.sources[plan.groups[0].encoded[0].keep].array, uint32_t{kXKeep});
  EXPECT_EQ(plan.outputs[plan.groups[0].encoded[0].codes].transform, Transform::kEncode);
  EXPECT_EQ(plan.outputs[plan.groups[0].encoded[0].scales].transform, Transform::kBeside);
  ASSERT_EQ(plan.equal.size(), 1u);
  EXPECT_EQ(plan.sources[plan.equal[0].first].array, uint32_t{kXKeep});
}

TEST(Draft, AnOutputThatIsErasedTakesItsEncodedWeightAlong) {
  const Catalogue catalogue = MakeCatalogue();
  const Inventory inventory;
  Draft draft = WithSources(catalogue, inventory);
  draft.BeginGroup("both");
  draft.AddEncoded(Request("o", Codec::kFp8Block, kOKeep, {{kO0, 0, 0, 130}}, 130, 40), 0);
  draft.AddEncoded(Request("x", Codec::kMxfp4, kXKeep, {{kX, 0, 0, 6}}, 6, 64), 0);
  draft.group().cells.push_back({3, 0, false, {{kX, 0, 2, 0, 6, kNone, 0}}, kNone, 0});
  draft.group().Erase({1, 1, 0, 0});
  ASSERT_EQ(draft.group().outputs.size(), 2u);
  ASSERT_EQ(draft.group().encoded.size(), 1u);
  EXPECT_EQ(draft.group().encoded[0].codes, 0u);
  EXPECT_EQ(draft.group().encoded[0].scales, 1u);
  EXPECT_EQ(draft.group().cells[0].scale_output, 1u);
  EXPECT_EQ(draft.group().cells[0].segments[0].output, 0u);
  EXPECT_EQ(draft.group().encoded[0].global, kNone);
  const Plan plan = PlaceOutputs(std::move(draft), {});
  EXPECT_EQ(Arrays(plan), (std::vector<uint32_t>{kX, kXKeep}));
}

TEST(Draft, OutputsAreNumberedByFileAndName) {
  const Catalogue catalogue = MakeCatalogue();
  const Inventory inventory;
  Draft draft(catalogue, inventory);
  draft.BeginGroup("late");
  draft.AddUnchanged(kX);
  draft.group().outputs[0].file_name = "z.safetensors";
  draft.BeginGroup("early");
  draft.AddUnchanged(kV);
  draft.AddUnchanged(kK);
  draft.BeginGroup("empty");
  const Plan plan = PlaceOutputs(std::move(draft), {});
  ASSERT_EQ(plan.outputs.size(), 3u);
  EXPECT_EQ(plan.outputs[0].name, "k");
  EXPECT_EQ(plan.outputs[1].name, "v");
  EXPECT_EQ(plan.outputs[2].name, "x");
  EXPECT_EQ(plan.files[plan.outputs[2].file].name, "z.safetensors");
  ASSERT_EQ(plan.groups.size(), 2u);
  EXPECT_EQ(plan.groups[0].label, "early");
  EXPECT_EQ(plan.groups[0].outputs, (std::vector<uint32_t>{0, 1}));
  EXPECT_EQ(plan.outputs[1].group, 0u);
  EXPECT_EQ(plan.outputs[2].group, 1u);
  EXPECT_EQ(Arrays(plan), (std::vector<uint32_t>{kX, kV, kK}));  // as they were first used
}

TEST(Draft, TheLastReasonCounts) {
  const Catalogue catalogue = MakeCatalogue();
  const Inventory inventory;
  Draft draft(catalogue, inventory);
  Weight weight;
  weight.array = kCodes;
  weight.scale = kCodesScale;
  draft.SetReason(kCodes, "first");
  draft.Drop(weight, "second");
  EXPECT_EQ(draft.reasons()[kCodes], "second");
  EXPECT_EQ(draft.reasons()[kCodesScale], "second");
  EXPECT_EQ(draft.reasons()[kX], "");
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
}  // namespace mimo::draft_test
