// The decision about the source layout, from catalogues made by hand: only shapes, index and config matter here.
#include "lib/layout/decide.h"

#include <gtest/gtest.h>

#include <functional>

#include "lib/model/family.h"

namespace mimo::decide_test {
namespace {

struct Description {
  bool fused = true;
  std::vector<uint8_t> windowed = {0, 1};
  int64_t heads = 64, kv = 4, swa_kv = 8;
  // Scale rows of qkv (or q, k, v) by layer kind; empty: not quantized.
  std::vector<int64_t> global_scales, window_scales;
  std::optional<int64_t> tp_size;
  std::string quant_method = "fp8";
  std::optional<LayoutMarker> marker;
};

struct Made {
  Catalogue catalogue;
  Inventory inventory;
};

Made Make(const Description& d) {
  Made m;
  ModelConfig& config = m.catalogue.config;
  config.family = Family::Get("mimo_v2").value();
  config.layers = static_cast<int64_t>(d.windowed.size());
  config.windowed = d.windowed;
  config.global = {d.heads, d.kv, 192, 128};
  config.window = {d.heads, d.swa_kv, 192, 128};
  config.quant_method = d.quant_method;
  config.marker = d.marker;
  m.catalogue.index.tp_size = d.tp_size;
  m.catalogue.files.push_back({"model.safetensors", 0, 0, {}, {}});
  m.inventory.fused = d.fused;
  const auto add = [&](const std::string& name, int64_t rows, const std::vector<int64_t>& scales, size_t i) {
    Weight w;
    w.rows = rows;
    w.cols = 256;
    w.array = static_cast<uint32_t>(m.catalogue.arrays.size());
    StoredArray array;
    array.name = name;
    array.shape = {rows, 256};
    m.catalogue.arrays.push_back(array);
    if (!scales.empty()) {
      w.storage = Storage::kFp8Block;
      w.scale = w.array + 1;
      array.name += "_scale_inv";
      array.shape = {scales[i], 2};
      m.catalogue.arrays.push_back(array);
    }
    m.inventory.weights.push_back(w);
    return static_cast<uint32_t>(m.inventory.weights.size() - 1);
  };
  for (size_t layer = 0; layer < d.windowed.size(); ++layer) {
    const AttentionShape& s = config.attention(d.windowed[layer] != 0);
    const auto& scales = d.windowed[layer] != 0 ? d.window_scales : d.global_scales;
    const std::string base = "model.layers." + std::to_string(layer) + ".self_attn.";
    AttentionWeights a;
    a.layer = static_cast<int32_t>(layer);
    if (d.fused) {
      a.qkv = add(base + "qkv_proj.weight", s.q_rows() + s.k_rows() + s.v_rows(), scales, 0);
    } else {
      a.q = add(base + "q_proj.weight", s.q_rows(), scales, 0);
      a.k = add(base + "k_proj.weight", s.k_rows(), scales, 1);
      a.v = add(base + "v_proj.weight", s.v_rows(), scales, 2);
    }
    m.inventory.attention.push_back(a);
  }
  return m;
}

Result<LayoutVerdict> Decide(const Description& d, const std::string& flag = "", const SurveyFacts& facts = {}) {
  const Made m = Make(d);
  return DecideLayout(m.catalogue, m.inventory, facts, flag.empty() ? std::nullopt : std::optional(QkvWish(flag)));
}

Description Released() {
  Description d;
  d.global_scales = {108};
  d.window_scales = {116};
  d.tp_size = 4;
  return d;
}

TEST(DecideLayout, ReleasedFusedIsDecidedByShapesEvenWithoutAnIndex) {
  for (std::optional<int64_t> tp : {std::optional<int64_t>(4), std::optional<int64_t>()}) {
    Description d = Released();
    d.tp_size = tp;
    const auto v = Decide(d);
    ASSERT_TRUE(v.ok()) << v.error().Message();
    EXPECT_EQ(v.value().layout, (QkvLayout{QkvKind::kFused, 4}));
    EXPECT_FALSE(v.value().assumed);
  }
}

TEST(DecideLayout, PlainReExportIsSeenByItsScaleRows) {
  Description d = Released();
  d.global_scales = {106};
  for (std::optional<int64_t> tp :
       {std::optional<int64_t>(4), std::optional<int64_t>()}) {  // a stale tp_size does not fool it
    d.tp_size = tp;
    const auto v = Decide(d);
    ASSERT_TRUE(v.ok()) << v.error().Message();
    EXPECT_EQ(v.value().layout, (QkvLayout{QkvKind::kFused, 1}));
    EXPECT_EQ(v.value().basis, "shapes");
  }
}

TEST(DecideLayout, WindowedLayersAloneAreAmbiguousAndTheRuleIsRecordedAsAssumed) {
  Description d = Released();
  d.windowed = {1, 1};
  d.tp_size.reset();
  auto v = Decide(d);
  ASSERT_TRUE(v.ok()) << v.error().Message();
  EXPECT_EQ(v.value().layout, (QkvLayout{QkvKind::kFused, 4}));
  EXPECT_TRUE(v.value().assumed);
  d.tp_size = 2;  // the index outranks the config
  v = Decide(d);
  ASSERT_TRUE(v.ok());
  EXPECT_EQ(v.value().layout, (QkvLayout{QkvKind::kFused, 2}));
  EXPECT_EQ(v.value().basis, "index tp_size");
  EXPECT_TRUE(v.value().assumed);  // a name that no data bears out
  SurveyFacts facts;
  facts.saturation = {{{QkvKind::kFused, 2}, 64, 0}, {{QkvKind::kFused, 4}, 64, 16}};
  v = Decide(d, "", facts);
  ASSERT_TRUE(v.ok());
  EXPECT_EQ(v.value().certainty(), Certainty::kProven);
  facts.saturation[1].unsaturated = 1;  // the codes would bear out both
  EXPECT_EQ(Decide(d, "", facts).value().certainty(), Certainty::kAssumed);
}

TEST(DecideLayout, FusedWithoutScalesOrIndexIsUndecidable) {
  Description d = Released();
  d.global_scales = d.window_scales = {};
  d.tp_size.reset();
  const auto v = Decide(d);
  ASSERT_FALSE(v.ok());
  EXPECT_EQ(v.error().code, ErrorCode::kBadInput);
  EXPECT_NE(v.error().Message().find("--source-qkv"), std::string::npos);
  EXPECT_EQ(v.error().tensor, "model.layers.0.self_attn.qkv_proj.weight");
  const auto flagged = Decide(d, "fused:1");
  ASSERT_TRUE(flagged.ok());
  EXPECT_EQ(flagged.value().layout, (QkvLayout{QkvKind::kFused, 1}));
  EXPECT_EQ(flagged.value().basis, "--source-qkv");
}

TEST(DecideLayout, RowsBearOutOrContradictWhatNamesTheLayout) {
  Description d = Released();
  d.global_scales = d.window_scales = {};
  SurveyFacts facts;
  facts.rows.chunks = {1, 2, 4};
  facts.rows.sampled = {"model.layers.0.self_attn.qkv_proj.weight"};

  auto v = Decide(d, "", facts);
  ASSERT_TRUE(v.ok()) << v.error().Message();
  EXPECT_EQ(v.value().layout, (QkvLayout{QkvKind::kFused, 4}));
  EXPECT_EQ(v.value().certainty(), Certainty::kAssumed);

  facts.rows.duels = {{4, 1}, {4, 2}};
  v = Decide(d, "", facts);
  ASSERT_TRUE(v.ok()) << v.error().Message();
  EXPECT_EQ(v.value().basis, "index tp_size");
  EXPECT_EQ(v.value().certainty(), Certainty::kProven);

  facts.rows.duels = {{1, 2}, {1, 4}};
  v = Decide(d, "", facts);
  ASSERT_FALSE(v.ok());
  EXPECT_EQ(v.error().code, ErrorCode::kBadInput);
  EXPECT_EQ(v.error().id, "layout.contradicted");
  EXPECT_EQ(v.error().advice, "pass --source-qkv fused:1");

  facts.rows.duels = {{1, 4}, {2, 4}};  // not 4, but which of the others?
  v = Decide(d, "", facts);
  ASSERT_FALSE(v.ok());
  EXPECT_EQ(v.error().advice, "pass --source-qkv fused:1 or fused:2");
  EXPECT_TRUE(Decide(d, "fused:4", facts).ok());
}

TEST(DecideLayout, RowsDecideWhereNothingNamesALayout) {
  Description d = Released();
  d.global_scales = d.window_scales = {};
  d.tp_size.reset();
  SurveyFacts facts;
  facts.rows.chunks = {1, 2, 4};
  facts.rows.sampled = {"model.layers.0.self_attn.qkv_proj.weight"};
  facts.rows.duels = {{2, 1}, {2, 4}};
  auto v = Decide(d, "", facts);
  ASSERT_TRUE(v.ok()) << v.error().Message();
  EXPECT_EQ(v.value().layout, (QkvLayout{QkvKind::kFused, 2}));  // though no producer is known to write it
  EXPECT_EQ(v.value().basis, "row norms");
  EXPECT_EQ(v.value().certainty(), Certainty::kProven);

  facts.rows.duels = {{2, 1}};
  v = Decide(d, "", facts);
  ASSERT_FALSE(v.ok());
  EXPECT_EQ(v.error().id, "layout.undecided");
  EXPECT_NE(v.error().found.find("fused(2) fused(4)"), std::string::npos) << v.error().found;
}

TEST(DecideLayout, ModelOptReExportsArePlain) {
  Description d = Released();
  d.global_scales = d.window_scales = {};
  d.quant_method = "modelopt";
  const auto v = Decide(d);
  ASSERT_TRUE(v.ok());
  EXPECT_EQ(v.value().layout, (QkvLayout{QkvKind::kFused, 1}));
}

TEST(DecideLayout, SplitKinds) {
  Description d = Released();
  d.fused = false;
  d.tp_size.reset();
  d.global_scales = {96, 8, 4};
  d.window_scales = {96, 12, 8};
  auto v = Decide(d);
  ASSERT_TRUE(v.ok()) << v.error().Message();
  EXPECT_EQ(v.value().layout, (QkvLayout{QkvKind::kSplit, 4}));
  d.global_scales = {96, 6, 4};
  v = Decide(d);
  ASSERT_TRUE(v.ok()) << v.error().Message();
  EXPECT_EQ(v.value().layout.kind, QkvKind::kSplitIndependent);
  d.global_scales = d.window_scales = {};  // without scales all split layouts mean the same
  v = Decide(d);
  ASSERT_TRUE(v.ok()) << v.error().Message();
  EXPECT_FALSE(v.value().layout.fused());
}

TEST(DecideLayout, NothingFitsNamesTheTensorAndBothCounts) {
  Description d = Released();
  d.global_scales = {107};
  const auto v = Decide(d);
  ASSERT_FALSE(v.ok());
  EXPECT_EQ(v.error().tensor, "model.layers.0.self_attn.qkv_proj.weight_scale_inv");
  EXPECT_NE(v.error().expected.find("108"), std::string::npos);
  EXPECT_NE(v.error().expected.find("106"), std::string::npos);
  EXPECT_EQ(v.error().found, "107");
}

TEST(DecideLayout, MarkerRestoresReplicatedHeads) {
  Description d = Released();
  d.kv = 8;  // what the replicated config says
  d.global_scales = {8 * 15};
  d.window_scales = {8 * 15};
  d.tp_size = 8;
  d.marker = LayoutMarker{.fused = true, .chunks = 8, .kv_heads = 4, .swa_kv_heads = 8};
  const Made m = Make(d);
  EXPECT_EQ(LogicalShape(m.catalogue.config, false).kv_heads, 4);
  const auto v = DecideLayout(m.catalogue, m.inventory, {}, std::nullopt);
  ASSERT_TRUE(v.ok()) << v.error().Message();
  EXPECT_EQ(v.value().layout, (QkvLayout{QkvKind::kFused, 8}));
  EXPECT_EQ(v.value().basis, "marker");
}

// Independent grids with one KV head per chunk of a windowed layer: 8 heads of 192 rows are 12 blocks, not 16.
TEST(DecideLayout, TheMarkerTellsIndependentGridsFromThoseOfChunks) {
  Description d = Released();
  d.fused = false;
  d.tp_size.reset();
  d.global_scales = {};
  d.windowed = {1, 1};
  d.window_scales = {96, 12, 8};  // split(4) has the same
  LayoutMarker marker{.fused = false, .chunks = 1, .kv_heads = 4, .swa_kv_heads = 8};
  marker.independent = true;
  d.marker = marker;
  auto v = Decide(d);
  ASSERT_TRUE(v.ok()) << v.error().Message();
  EXPECT_EQ(v.value().layout, (QkvLayout{QkvKind::kSplitIndependent, 1}));
  EXPECT_EQ(v.value().basis, "marker");
  d.marker = LayoutMarker{.fused = false, .chunks = 4, .kv_heads = 4, .swa_kv_heads = 8};
  v = Decide(d);
  ASSERT_TRUE(v.ok()) << v.error().Message();
  EXPECT_EQ(v.value().layout, (QkvLayout{QkvKind::kSplit, 4}));
  // A marker that shapes contradict decides nothing.
  d.window_scales = {96, 16, 8};
  d.marker = marker;
  v = Decide(d);
  EXPECT_TRUE(!v.ok() || v.value().layout.kind == QkvKind::kSplit);
}

// split(8) of Flash: windowed layers on the grid of 8 chunks, global ones on that of their 4 KV heads.
TEST(DecideLayout, SplitForMoreRanksThanKvHeads) {
  Description d = Released();
  d.fused = false;
  d.tp_size.reset();
  d.global_scales = {96, 8, 4};
  d.window_scales = {96, 16, 8};
  d.marker = LayoutMarker{.fused = false, .chunks = 8, .kv_heads = 4, .swa_kv_heads = 8};
  const auto v = Decide(d);
  ASSERT_TRUE(v.ok()) << v.error().Message();
  EXPECT_EQ(v.value().layout, (QkvLayout{QkvKind::kSplit, 8}));
}

TEST(DecideLayout, FlagThatDoesNotFitIsRefused) {
  for (const char* flag : {"fused:1", "split", "independent", "fused:3"}) {
    const auto v = Decide(Released(), flag);
    ASSERT_FALSE(v.ok()) << flag;
    EXPECT_EQ(v.error().code, ErrorCode::kBadInput);
  }
  const auto v = Decide(Released(), "fused:x");
  ASSERT_FALSE(v.ok());
  EXPECT_EQ(v.error().code, ErrorCode::kUsage);
}

TEST(DecideLayout, DataThatContradictsIsAnError) {
  Description d = Released();
  d.windowed = {1, 1};  // fused(4) by the index, fused(1) also possible
  SurveyFacts facts;
  facts.saturation = {{{QkvKind::kFused, 4}, 100, 40}, {{QkvKind::kFused, 1}, 100, 0}};
  auto v = Decide(d, "", facts);
  ASSERT_FALSE(v.ok());
  EXPECT_EQ(v.error().code, ErrorCode::kBadInput);
  EXPECT_TRUE(Decide(d, "fused:4", facts).ok());  // the flag always wins
  facts.saturation[1].unsaturated = 40;           // no better reading: no contradiction
  EXPECT_TRUE(Decide(d, "", facts).ok());
}

TEST(DecideLayout, SplitWhoseSharedRowsDoNotSaturateIsRefused) {
  Description d = Released();
  d.fused = false;
  d.global_scales = {96, 8, 4};
  d.window_scales = {96, 12, 8};
  SurveyFacts facts;
  facts.attention_scales = 1000;
  facts.saturation = {{{QkvKind::kSplit, 4}, 120, 20}};
  EXPECT_FALSE(Decide(d, "", facts).ok());
  facts.power_of_two_scales = 1000;  // such scales never saturate and prove nothing
  EXPECT_TRUE(Decide(d, "", facts).ok());
}

}  // namespace
}  // namespace mimo::decide_test
