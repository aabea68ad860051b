// What each --to, --tp and --attention makes of a checkpoint (docs/engines.md, reference target-layouts.md 4, 5, 10),
// and what each impossible request is told: the reason and the nearest value that would do.
#include "lib/forms/target.h"

#include <gtest/gtest.h>

#include <map>

#include "lib/forms/registry/registry.h"
#include "lib/plan/words.h"
#include "tests/unit/planner/made_checkpoint.h"

namespace mimo::target_test {
namespace {

using made::Model;

// A layer is enough for decisions about heads and widths; these are the released ones.
Model Flash() {
  Model m;
  m.hidden = 4096;
  m.vocab = 152576;
  m.intermediate = 16384;
  m.experts = 256;
  return m;
}
Model Pro() {
  Model m = Flash();
  m.heads = 128;
  m.kv = 8;
  m.layout = {QkvKind::kFused, 8};
  return m;
}

// The target, and what people are told of it.
struct Chosen : Target {
  std::vector<std::string> notes;
};
Result<Chosen> Choose(const made::Understood& u, PlanOptions options, bool viewed = false) {
  const Form& form = FormOfOutput(false, &options);
  auto chooser = StorageChooser::Make(u.catalogue, options);
  EXPECT_TRUE(chooser.ok()) << chooser.error().Message();
  const SurveyFacts facts;
  const View view;  // whether there is one is all that is asked
  Planning p{form,        u.catalogue,
             u.inventory, u.verdict,
             options,     facts,
             u.catalogue, viewed ? &view : nullptr,
             nullptr,     std::move(*chooser),
             {},          Draft(u.catalogue, u.inventory),
             {},          {}};
  MIMO_RETURN_IF_ERROR(form.Check(p));
  MIMO_ASSIGN_OR_RETURN(const Choice attention, ChooseAttentionStorage(&p));
  p.target = StartTarget(p, attention);
  MIMO_RETURN_IF_ERROR(form.Aim(attention, &p));
  return Chosen{std::move(p.target), std::move(p.notes)};
}
Result<Chosen> Choose(const Model& model, const PlanOptions& options) {
  return Choose(made::Understand(model), options);
}

PlanOptions To(const std::string& engine, int64_t tp) {
  PlanOptions o;
  o.to = *FromWord(kTargets, engine);
  o.tp = tp;
  return o;
}

QkvLayout Fused(int64_t chunks) {
  return {QkvKind::kFused, chunks};
}
QkvLayout Split(int64_t chunks) {
  return {QkvKind::kSplit, chunks};
}

// ---- layouts

using ByTp = std::map<int64_t, QkvLayout>;
void ExpectLayouts(const Model& model, const std::string& engine, const ByTp& expected) {
  const made::Understood u = made::Understand(model);
  for (const auto& [tp, layout] : expected) {
    const PlanOptions options = To(engine, tp);
    const auto target = Choose(u, options);
    ASSERT_TRUE(target.ok()) << target.error().Message();
    EXPECT_EQ(target.value().qkv, layout) << engine << " TP " << tp << ": " << target.value().qkv.ToString();
    EXPECT_FALSE(target.value().notes.empty());
    EXPECT_EQ(target.value().keeps_fp8, !target.value().decodes);
    // BF16 exactly where Q of a rank is no whole blocks.
    EXPECT_EQ(target.value().decodes, model.heads * 192 / tp % 128 != 0) << tp;
  }
}

TEST(Target, WhatTheNewestEnginesAreGiven) {
  Model flash = Flash(), pro = Pro();
  flash.expert_storage = pro.expert_storage = Storage::kMxfp4;  // 2048 rows are 64 parts of 32
  // 64 ranks of 16384 dense rows: 256 each.
  ExpectLayouts(
      flash, "vllm",
      {{1, Fused(4)}, {2, Fused(4)}, {4, Fused(4)}, {8, Fused(8)}, {16, Fused(16)}, {32, Fused(32)}, {64, kOwnGrids}});
  ExpectLayouts(
      pro, "vllm",
      {{1, Fused(8)}, {2, Fused(8)}, {4, Fused(8)}, {8, Fused(8)}, {16, Fused(16)}, {32, Fused(32)}, {64, Fused(64)}});
  // Split on the grid of T; whole blocks throughout mean a grid per tensor.
  ExpectLayouts(flash, "sglang", {{1, kOwnGrids}, {2, kOwnGrids}, {4, Fused(4)}, {8, Fused(8)}, {16, Fused(16)}});
  ExpectLayouts(pro, "sglang", {{1, kOwnGrids}, {2, kOwnGrids}, {4, kOwnGrids}, {8, Fused(8)}, {16, Fused(16)}});
}

TEST(Target, AttentionMayBeChosen) {
  PlanOptions options = To("vllm", 8);
  options.attention =
      AttentionStorage::kSplit;  // T >= G: K has two scale rows per head, and V's first half one of them
  EXPECT_EQ(Choose(Flash(), options).value().qkv, Split(8));
  options.tp = 4;  // windowed layers have two heads per rank, global ones one
  EXPECT_EQ(Choose(Flash(), options).value().qkv, Split(4));
  options.tp = 2;
  EXPECT_EQ(Choose(Flash(), options).value().qkv, kOwnGrids);
  options.attention = AttentionStorage::kBf16;
  auto target = Choose(Flash(), options);
  EXPECT_EQ(target.value().qkv, kOwnGrids);
  EXPECT_TRUE(target.value().decodes);
  EXPECT_FALSE(target.value().keeps_fp8);
  options.attention = AttentionStorage::kFused;
  options.tp = 16;
  EXPECT_EQ(Choose(Flash(), options).value().qkv, Fused(16));
}

// Both engines take the chunk count from num_key_value_heads, which is never less than the KV heads (docs/engines.md).
TEST(Target, FusedNeverHasFewerChunksThanKvHeads) {
  for (const char* engine : {"vllm", "sglang"}) {
    for (const int64_t tp : {1, 2}) {
      PlanOptions options = To(engine, tp);
      options.attention = AttentionStorage::kFused;
      const auto target = Choose(Flash(), options);
      ASSERT_TRUE(target.ok()) << target.error().Message();
      EXPECT_EQ(target.value().qkv, Fused(4)) << engine << " TP " << tp << ": " << target.value().qkv.ToString();
    }
  }
}

TEST(Target, UnquantizedAttentionIsSplitForEveryEngine) {
  Model plain = Flash();
  plain.fp8 = false;
  plain.layout = kOwnGrids;
  for (const char* engine : {"vllm", "sglang"})
    for (const int64_t tp : {1, 8, 16}) EXPECT_EQ(Choose(plain, To(engine, tp)).value().qkv, kOwnGrids);
  PlanOptions decoded = To("vllm", 8);
  decoded.dtype = DTypeChoice::kBf16;
  EXPECT_EQ(Choose(Flash(), decoded).value().qkv, kOwnGrids);
}

TEST(Target, RankFilesAreChunksWhateverTheyHold) {
  for (const int64_t tp : {1, 2, 8}) {
    PlanOptions options = To("vllm", tp);
    options.format = FormKind::kShardedState;
    EXPECT_EQ(Choose(Flash(), options).value().qkv, Fused(tp));
    options.dtype = DTypeChoice::kBf16;
    EXPECT_EQ(Choose(Flash(), options).value().qkv, Fused(tp));
  }
}

TEST(Target, NeuronHasAGridPerTensorAndHfKeepsWhatThereIs) {
  PlanOptions options;
  EXPECT_EQ(Choose(Flash(), options).value().qkv, Fused(4));
  options.to = TargetKind::kNxdi;
  EXPECT_EQ(Choose(Flash(), options).value().qkv, kOwnGrids);
}

// ---- padding (section 10)

TEST(Target, ZeroHeadsForThreeAndSixRanks) {
  const made::Understood u = made::Understand(Flash());
  for (const int64_t tp : {3, 6}) {
    PlanOptions options = To("vllm", tp);
    options.pad = true;
    const auto target = Choose(u, options);
    ASSERT_TRUE(target.ok()) << target.error().Message();
    const ModelConfig& m = target.value().model;
    EXPECT_EQ(m.global, (AttentionShape{96, 6, 192, 128}));
    EXPECT_EQ(m.window, (AttentionShape{96, 12, 192, 128}));
    // The next multiples of 128 T, by hand.
    EXPECT_EQ(m.intermediate, tp == 3 ? 16512 : 16896);
    EXPECT_EQ(m.moe_intermediate, 2304);
    EXPECT_EQ(m.vocab, 152640);  // 795 * 192
    EXPECT_EQ(target.value().qkv, Fused(6));
    EXPECT_TRUE(target.value().resizes(u.catalogue.config));
  }
  // With whole experts these stay as they are: 256 do not divide by 3, 255 do.
  Model odd = Flash();
  odd.experts = 255;
  PlanOptions whole = To("vllm", 3);
  whole.pad = true;
  whole.ep = 3;
  EXPECT_EQ(Choose(odd, whole).value().model.moe_intermediate, 2048);
  // Nothing to pad: nothing is.
  PlanOptions four = To("vllm", 4);
  four.pad = true;
  EXPECT_FALSE(Choose(u, four).value().resizes(u.catalogue.config));
}

// ---- the way back

made::Understood Marked(const Model& model, const LayoutMarker& marker) {
  made::Understood u = made::Understand(model);
  u.catalogue.config.marker = marker;
  return u;
}

TEST(Target, TheSourcesLayoutIsRestored) {
  LayoutMarker marker{.fused = true, .chunks = 4, .kv_heads = 4, .swa_kv_heads = 8};
  marker.source = MarkedLayout{.fused = false, .chunks = 4};
  PlanOptions options;
  // A directory for an engine is a Hugging Face one: kept, unless asked.
  auto target = Choose(Marked(Flash(), marker), options);
  EXPECT_EQ(target.value().qkv, Fused(4));
  EXPECT_FALSE(target.value().restores);
  options.qkv = QkvWish("restore");
  target = Choose(Marked(Flash(), marker), options);
  EXPECT_EQ(target.value().qkv, Split(4));
  EXPECT_TRUE(target.value().restores);
  // What a view shows is restored by itself; another layout may be asked for.
  options.qkv = QkvWish("keep");
  EXPECT_EQ(Choose(Marked(Flash(), marker), options, true).value().qkv, Split(4));
  options.qkv = QkvWish("fused:2");
  EXPECT_EQ(Choose(Marked(Flash(), marker), options, true).value().qkv, Fused(2));
  // Not on the way to an engine, nor where nothing says what there was.
  EXPECT_FALSE(Choose(Marked(Flash(), marker), To("vllm", 4)).value().restores);
  marker.source.reset();
  options.qkv = QkvWish("keep");
  EXPECT_FALSE(Choose(Marked(Flash(), marker), options).value().restores);
}

TEST(Target, PaddingIsDroppedAgain) {
  Model padded = Flash();
  padded.heads = 96;
  padded.kv = 6;
  padded.swa_kv = 12;
  padded.intermediate = 16512;
  padded.moe_intermediate = 2304;
  padded.vocab = 152640;
  padded.layout = Fused(6);
  LayoutMarker marker{.fused = true, .chunks = 6, .kv_heads = 6, .swa_kv_heads = 12};
  marker.source = MarkedLayout{.fused = true, .chunks = 4};
  marker.unpadded = UnpaddedDimensions{64, 4, 64, 8, 16384, 2048, 152576};
  PlanOptions options;
  options.qkv = QkvWish("restore");
  const made::Understood u = Marked(padded, marker);
  const auto target = Choose(u, options);
  ASSERT_TRUE(target.ok()) << target.error().Message();
  EXPECT_EQ(target.value().qkv, Fused(4));
  EXPECT_EQ(target.value().model.global, (AttentionShape{64, 4, 192, 128}));
  EXPECT_EQ(target.value().model.window, (AttentionShape{64, 8, 192, 128}));
  EXPECT_EQ(target.value().model.intermediate, 16384);
  EXPECT_EQ(target.value().model.moe_intermediate, 2048);
  EXPECT_EQ(target.value().model.vocab, 152576);
  EXPECT_TRUE(target.value().resizes(u.catalogue.config));
  options.qkv = QkvWish("keep");
  EXPECT_FALSE(Choose(u, options).value().resizes(u.catalogue.config));
}

TEST(Target, AFoldedScaleCannotBeTakenOutAgain) {
  LayoutMarker marker{.fused = true, .chunks = 4, .kv_heads = 4, .swa_kv_heads = 8};
  marker.source = MarkedLayout{.fused = false, .chunks = 4};
  marker.folded = "v";
  PlanOptions options;
  options.qkv = QkvWish("restore");
  const auto target = Choose(Marked(Flash(), marker), options);
  ASSERT_FALSE(target.ok());
  EXPECT_EQ(target.error().code, ErrorCode::kUsage);
  options.qkv = QkvWish("split");
  EXPECT_TRUE(Choose(Marked(Flash(), marker), options).ok());
}

// ---- refusals

// `says` are parts of the message, in any order.
void ExpectRefused(const made::Understood& u, const PlanOptions& options, const std::vector<std::string>& says) {
  const auto target = Choose(u, options);
  ASSERT_FALSE(target.ok()) << says.front() << ": " << target.value().qkv.ToString();
  EXPECT_EQ(target.error().code, ErrorCode::kUsage) << target.error().Message();
  EXPECT_FALSE(target.error().what.empty());
  EXPECT_FALSE(target.error().expected.empty());
  EXPECT_FALSE(target.error().found.empty());
  for (const std::string& part : says)
    EXPECT_NE(target.error().Message().find(part), std::string::npos) << part << " in: " << target.error().Message();
}

TEST(TargetRefuses, RanksThatCannotShareTheHeads) {
  const made::Understood flash = made::Understand(Flash()), pro = made::Understand(Pro());
  // 2 and 4 are equally near to 3; --pad is the other way out.
  ExpectRefused(flash, To("vllm", 3), {"64 query heads", "TP 3", "use TP 2", "--pad"});
  ExpectRefused(flash, To("sglang", 6), {"use TP 4", "--pad"});
  ExpectRefused(flash, To("vllm", 48), {"use TP 32", "--pad"});
  ExpectRefused(flash, To("vllm", 128), {"64 query heads", "use TP 64"});
  ExpectRefused(pro, To("vllm", 12), {"128 query heads", "use TP 8"});
  // Q heads divide, KV heads neither way.
  Model odd = Flash();
  odd.heads = 96;
  odd.kv = odd.swa_kv = 6;
  odd.layout = Fused(6);
  ExpectRefused(made::Understand(odd), To("vllm", 4), {"6 KV heads", "use TP 2"});
  // With --pad the vocabulary and all are taken care of, not the experts placed whole.
  PlanOptions pad = To("vllm", 3);
  pad.pad = true;
  pad.ep = 3;
  ExpectRefused(flash, pad, {"3 ranks", "256 experts"});
}

TEST(TargetRefuses, ExpertsThatCannotBePlaced) {
  Model few = Flash();
  few.experts = 12;
  PlanOptions options = To("vllm", 8);
  options.ep = 8;
  ExpectRefused(made::Understand(few), options, {"8 ranks", "12 experts", "--tp 6 --ep 6"});
  options.ep = 4;
  ExpectRefused(made::Understand(few), options, {"--ep 1 or --ep 8", "--ep 4"});
  options.ep = 16;
  ExpectRefused(made::Understand(few), options, {"--ep 1 or --ep 8", "--ep 16"});
}

TEST(TargetRefuses, PartsThatCutABlock) {
  const made::Understood flash = made::Understand(Flash());
  // 2048 expert rows over 32 ranks are 64 each, half a block; 16 ranks have 128. Whole experts are the way out.
  ExpectRefused(flash, To("vllm", 32), {"experts", "2048 rows", "--tp 16", "--ep 32", "--pad"});
  PlanOptions whole = To("vllm", 32);
  whole.ep = 32;
  EXPECT_TRUE(Choose(flash, whole).ok());
  Model mxfp4 = Flash();
  mxfp4.expert_storage = Storage::kMxfp4;  // 64 rows are two groups of 32
  EXPECT_TRUE(Choose(mxfp4, To("vllm", 32)).ok());
  Model narrow = Flash();
  narrow.intermediate = 1024;
  ExpectRefused(made::Understand(narrow), To("vllm", 16), {"dense layers", "1024 rows", "--tp 8"});
}

// Blocks of 64 x 128: 64 rows of gate and up are a block, 64 columns of down are half of one.
TEST(TargetRefuses, PartsThatCutABlockByItsColumns) {
  made::Understood u = made::Understand(Flash());
  u.catalogue.config.block_rows = 64;
  ExpectRefused(u, To("vllm", 32), {"experts", "2048", "--tp 16"});
}

// 512 rows of vocabulary are 8 times 64, which 3 does not divide: ranks of equal height would lose rows.
TEST(TargetRefuses, AVocabularyThatRanksCannotShare) {
  Model three = Flash();
  three.heads = 48;
  three.kv = three.swa_kv = 3;
  three.layout = Fused(3);
  three.intermediate = 128 * 6;
  three.moe_intermediate = 128 * 6;
  three.vocab = 512;
  ExpectRefused(made::Understand(three), To("vllm", 3), {"512"});
}

TEST(TargetRefuses, SplitAttentionThatNoGridExpresses) {
  Model flash = Flash();
  flash.expert_storage = Storage::kMxfp4;
  PlanOptions options = To("sglang", 64);
  options.attention = AttentionStorage::kSplit;
  ExpectRefused(made::Understand(flash), options, {"TP 64", "192 Q rows per rank", "--tp 32", "--attention fused"});
}

TEST(TargetRefuses, BlocksThatAnEngineDoesNotTake) {
  PlanOptions options = To("vllm", 8);
  options.fp8_block_rows = 64;
  ExpectRefused(made::Understand(Flash()), options, {"vllm 0.33.0", "64x128"});
  options.to = TargetKind::kSglang;
  const auto target = Choose(Flash(), options);
  ASSERT_TRUE(target.ok()) << target.error().Message();
  EXPECT_EQ(target.value().block_rows, 64);
  options.engine_version = "23808";
  ExpectRefused(made::Understand(Flash()), options, {"64x128"});
  options.engine_version = "9.9";
  ExpectRefused(made::Understand(Flash()), options, {"9.9", "sglang-0.5.23"});
}

TEST(TargetRefuses, OptionsThatContradictEachOther) {
  Model scaled = Flash();
  scaled.value_scale = 0.5;
  const made::Understood u = made::Understand(Flash());
  const auto with = [](PlanOptions options, auto change) {
    change(options);
    return options;
  };
  const PlanOptions hf, vllm = To("vllm", 8), sglang = To("sglang", 8);
  using O = PlanOptions;
  ExpectRefused(u, with(vllm, [](O& o) { o.format = FormKind::kTorch; }), {"sharded-state", "torch"});
  ExpectRefused(u, with(sglang, [](O& o) { o.format = FormKind::kShardedState; }), {"SGLang", "post-processes"});
  ExpectRefused(u, with(hf, [](O& o) { o.format = FormKind::kShardedState; }), {"vLLM", "--to hf"});
  ExpectRefused(u, with(vllm, [](O& o) { o.format = FormKind::kShardedState, o.attention = AttentionStorage::kBf16; }),
                {"--attention auto"});
  ExpectRefused(u, with(vllm, [](O& o) { o.tp = 0; }), {"--tp N"});
  ExpectRefused(u, with(hf, [](O& o) { o.tp = 4; }), {"--to vllm or --to sglang"});
  ExpectRefused(u, with(hf, [](O& o) { o.pad = true; }), {"--to vllm or --to sglang"});
  ExpectRefused(u, with(hf, [](O& o) { o.engine_version = "0.33.0"; }), {"--to vllm or --to sglang"});
  ExpectRefused(u, with(hf, [](O& o) { o.attention = AttentionStorage::kBf16; }), {"--to vllm or --to sglang"});
  ExpectRefused(u, with(hf, [](O& o) { o.to = TargetKind::kNxdi, o.ep = 4; }), {"--to nxdi"});
  ExpectRefused(u, with(vllm, [](O& o) { o.pp = 2; }), {"pipeline", "--pp 1"});
  ExpectRefused(u, with(vllm, [](O& o) { o.etp = 2; }), {"--etp 2"});
  ExpectRefused(u, with(vllm, [](O& o) { o.ranks = {0}; }), {"--format sharded-state"});
  ExpectRefused(u, with(vllm, [](O& o) { o.format = FormKind::kShardedState, o.ranks = {0, 8}; }), {"0 to 7", "8"});
  ExpectRefused(u, with(vllm, [](O& o) { o.format = FormKind::kShardedState, o.ranks = {-1, 2}; }), {"0 to 7"});
  ExpectRefused(u, with(hf, [](O& o) { o.fold_value_scale = FoldInto::kV; }), {"attention_value_scale"});
  EXPECT_TRUE(Choose(scaled, with(hf, [](O& o) { o.fold_value_scale = FoldInto::kV; })).ok());
  ExpectRefused(u, with(vllm, [](O& o) { o.qkv = QkvWish("split"); }), {"--attention", "--qkv split"});
  ExpectRefused(u, with(hf, [](O& o) { o.qkv = QkvWish("fused:3"); }), {"64 Q", "4 KV heads", "fused(3)"});
  // The last value that would do, and no more.
  EXPECT_TRUE(Choose(u, with(vllm, [](O& o) { o.format = FormKind::kShardedState, o.ranks = {0, 7}; })).ok());
  EXPECT_TRUE(Choose(u, with(vllm, [](O& o) { o.pp = o.etp = 1; })).ok());
}

}  // namespace
}  // namespace mimo::target_test
