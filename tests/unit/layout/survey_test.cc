// The survey on one fused attention layer written here: which cells saturate under which layout, and what bad scales
// do.
#include "lib/layout/survey.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "lib/base/durable_file.h"
#include "lib/io/safetensors/safetensors.h"
#include "tests/faults/scratch_directory.h"

namespace mimo::survey_test {
namespace {

constexpr int64_t kCols = 256;
const AttentionShape kShape{8, 4, 192, 128};

class SurveyTest : public ::testing::Test {
 protected:
  // fused(4) codes with one saturated code in each true cell, the rest below, and scales[cell].
  void Write(const std::vector<float>& scales_of_row, int64_t block_rows = 128, int64_t block_cols = 128) {
    const QkvMap map = BuildQkvMap({QkvKind::kFused, 4}, kShape, block_rows);
    std::vector<TensorInfo> tensors(2);
    tensors[0].name = "model.layers.0.self_attn.qkv_proj.weight";
    tensors[0].dtype = DType::kF8E4M3;
    tensors[0].shape = {map.rows[0], kCols};
    tensors[1].name = tensors[0].name + "_scale_inv";
    tensors[1].dtype = DType::kF32;
    tensors[1].shape = {map.scale_rows[0], kCols / block_cols};
    std::string file = LayOutSafetensors(tensors, {});
    file.resize(tensors[1].end);
    std::mt19937 random(7);
    for (uint64_t i = tensors[0].begin; i < tensors[0].end; ++i) file[i] = static_cast<char>(random() % 0x70);
    for (const ScaleBand& band : map.bands)
      for (int64_t c = 0; c < kCols; c += block_cols) {
        const auto row =
            static_cast<uint64_t>(band.row_begin) + random() % static_cast<uint64_t>(band.row_end - band.row_begin);
        file[tensors[0].begin + row * kCols + static_cast<uint64_t>(c) + random() % static_cast<uint64_t>(block_cols)] =
            (random() & 1) != 0 ? '\x7E' : '\xFE';
      }
    for (size_t i = 0; i < static_cast<size_t>(map.scale_rows[0] * (kCols / block_cols)); ++i)
      std::memcpy(&file[tensors[1].begin + 4 * i], &scales_of_row[i % scales_of_row.size()], 4);
    ASSERT_TRUE(WriteNewFile(PosixFileSystem(), scratch_.File("a.safetensors"), file).ok());

    catalogue_.root = scratch_.path();
    catalogue_.config.layers = 1;
    catalogue_.config.block_rows = block_rows;
    catalogue_.config.block_cols = block_cols;
    catalogue_.config.windowed = {0};
    catalogue_.config.global = catalogue_.config.window = kShape;
    catalogue_.files = {{"a.safetensors", file.size(), tensors[0].begin, {}, {}}};
    catalogue_.arrays.clear();
    for (const TensorInfo& t : tensors) {
      StoredArray a;
      a.name = t.name;
      a.dtype = t.dtype;
      a.shape = t.shape;
      a.begin = t.begin;
      a.bytes = t.end - t.begin;
      catalogue_.arrays.push_back(a);
    }
    Weight w;
    w.array = 0;
    w.scale = 1;
    w.storage = Storage::kFp8Block;
    w.rows = map.rows[0];
    w.cols = kCols;
    w.block_rows = block_rows;
    w.block_cols = block_cols;
    AttentionWeights a;
    a.qkv = 0;
    inventory_.weights = {w};
    inventory_.attention = {a};
    inventory_.fused = true;
  }
  Result<SurveyFacts> Run(bool allow = false) {
    return Survey(PosixFileSystem(), catalogue_, inventory_, {{QkvKind::kFused, 4}, {QkvKind::kFused, 1}}, allow);
  }

  ScratchDirectory scratch_;
  Catalogue catalogue_;
  Inventory inventory_;
};

TEST_F(SurveyTest, EveryCellSaturatesUnderTheTrueGridOnly) {
  Write({0.01f, 0.3f, 0.07f});
  const auto facts = Run();
  ASSERT_TRUE(facts.ok()) << facts.error().Message();
  const auto& s = facts.value().saturation;
  ASSERT_EQ(s.size(), 2u);
  // 4 chunks of 384 Q, 192 K, 128 V rows: Q ends on a block, K and V take 3 blocks, 2 columns.
  EXPECT_EQ(s[0].cells, 4u * 3 * 2);
  EXPECT_EQ(s[0].unsaturated, 0u);
  EXPECT_GT(s[1].cells, 0u);
  EXPECT_EQ(facts.value().attention_scales, 4u * 6 * 2);
  EXPECT_EQ(facts.value().power_of_two_scales, 0u);
}

TEST_F(SurveyTest, OtherBlocksAreThoseOfTheCheckpoint) {
  Write({0.01f, 0.3f, 0.07f}, 64, 32);
  const auto facts = Run();
  ASSERT_TRUE(facts.ok()) << facts.error().Message();
  // K and V take 3 and 2 blocks of each chunk, 8 columns.
  EXPECT_EQ(facts.value().saturation[0].cells, 4u * 5 * 8);
  EXPECT_EQ(facts.value().saturation[0].unsaturated, 0u);
  EXPECT_GT(facts.value().saturation[1].cells, 0u);
}

TEST_F(SurveyTest, ScalesOfRowsSayNothingOfTheLayout) {
  Write({0.5f});
  inventory_.weights[0].span = ScaleSpan::kRow;
  inventory_.weights[0].block_rows = 1;
  inventory_.weights[0].block_cols = kCols;
  const auto facts = Run();
  ASSERT_TRUE(facts.ok()) << facts.error().Message();
  EXPECT_TRUE(facts.value().sampled.empty());
  EXPECT_EQ(facts.value().saturation[0].cells, 0u);
  EXPECT_EQ(facts.value().attention_scales, 4u * 6 * 2);
}

TEST_F(SurveyTest, ZeroScalesAreNoEvidence) {
  Write({0.0f});
  const auto facts = Run();
  ASSERT_TRUE(facts.ok());
  EXPECT_EQ(facts.value().saturation[0].cells, 0u);
  EXPECT_EQ(facts.value().zero_scales, facts.value().attention_scales);
}

TEST_F(SurveyTest, PowersOfTwoAreCounted) {
  Write({0.25f, 0.125f});
  EXPECT_EQ(Run().value().power_of_two_scales, 4u * 6 * 2);
}

TEST_F(SurveyTest, ImpossibleScalesAreRefusedWithTheirPlace) {
  for (float bad : {-0.5f, NAN, INFINITY}) {
    Write({0.5f, 0.5f, 0.5f, bad});
    const auto facts = Run();
    ASSERT_FALSE(facts.ok());
    EXPECT_EQ(facts.error().code, ErrorCode::kBadInput);
    EXPECT_EQ(facts.error().tensor, "model.layers.0.self_attn.qkv_proj.weight_scale_inv");
    EXPECT_NE(facts.error().found.find("[1, 1]"), std::string::npos) << facts.error().found;
    EXPECT_TRUE(Run(true).ok());
  }
}

}  // namespace
}  // namespace mimo::survey_test
