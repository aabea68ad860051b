// Codes drawn here as a quantizer leaves them in the blocks of a known layout, and what is said of every other. The
// chunks of these shapes are written out by hand, not taken from the row map of the library.
#include "lib/layout/trial.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "lib/layout/grid_cells.h"

namespace mimo::trial_test {
namespace {

// One KV head in each of four chunks: 2 Q heads, 384 rows or 3 blocks; K 1.5; V 1. Two KV heads in sliding windows.
const AttentionShape kGlobal{8, 4, 192, 128}, kWindow{8, 8, 192, 128};
constexpr int64_t kTile = 64, kColumns = 16;

struct Drawn {
  std::vector<int> letters;       // of each tile: 0 Q, 1 K, 2 V
  std::vector<int> cell;          // of each tile
  std::vector<double> magnitude;  // of Q, K and V
};

// Tiles of fused(chunks), blocks over each chunk or anew for each letter.
Drawn Fused(const AttentionShape& shape, int64_t chunks, bool apart) {
  Drawn d{{}, {}, {1, 1, 1}};
  int cells = 0;
  for (int64_t c = 0; c < chunks; ++c) {
    int64_t in_grid = 0;
    for (int letter = 0; letter < 3; ++letter) {
      const int64_t tiles = (letter == 0 ? shape.heads : shape.kv_heads) / chunks * (letter == 2 ? 2 : 3);
      if (apart) in_grid = 0;
      for (int64_t t = 0; t < tiles; ++t, ++in_grid) {
        if (in_grid % 2 == 0) ++cells;
        d.letters.push_back(letter);
        d.cell.push_back(cells - 1);
      }
    }
  }
  return d;
}

// Each tile's largest value and norm, divided by the largest of its cell. With `rule` off nothing reaches 448.
LayerTiles Quantize(const Drawn& d, bool windowed, bool rule, std::mt19937* random) {
  std::normal_distribution<double> normal;
  LayerTiles layer;
  layer.windowed = windowed;
  layer.tile_rows = kTile;
  CodeTiles& tiles = layer.arrays[0];
  tiles.tiles = static_cast<int64_t>(d.cell.size());
  tiles.columns = kColumns;
  tiles.scale_rows = d.cell.back() + 1;
  tiles.scales.assign(static_cast<size_t>(tiles.scale_rows * kColumns), 0);
  std::vector<double> amax(d.cell.size() * kColumns), norm(amax.size());
  for (size_t t = 0; t < d.cell.size(); ++t)
    for (size_t c = 0; c < kColumns; ++c) {
      const double size = d.magnitude[static_cast<size_t>(d.letters[t])];
      amax[t * kColumns + c] = size * (4 + 0.3 * normal(*random));
      norm[t * kColumns + c] = size * std::exp(0.02 * normal(*random));
      float& scale = tiles.scales[static_cast<size_t>(d.cell[t]) * kColumns + c];
      scale = std::max(scale, static_cast<float>(amax[t * kColumns + c] / 448 * (rule ? 1 : 1.5)));
    }
  for (size_t t = 0; t < d.cell.size(); ++t)
    for (size_t c = 0; c < kColumns; ++c) {
      const auto scale = static_cast<double>(tiles.scales[static_cast<size_t>(d.cell[t]) * kColumns + c]);
      tiles.most.push_back(amax[t * kColumns + c] / scale >= 447.9 ? 0x7E : 0x7A);
      tiles.level.push_back(static_cast<float>(std::log(norm[t * kColumns + c] / scale)));
    }
  return layer;
}

struct Case {
  int64_t chunks = 4;
  bool apart = false, rule = true;
  std::vector<double> magnitude = {1, 1, 1};
  bool window_only = false;
  AttentionShape global = kGlobal, window = kWindow;
  bool constant = false;  // every code is 448
  bool rough = false;     // codes are alike everywhere, and scales have nothing to do with their neighbours
  bool spoiled = false;   // K and V of sliding windows do not hold a saturated code anywhere
  double damaged = 0;
  uint32_t seed = 1;
};

std::vector<Tried> Try(const Case& c) {
  std::mt19937 random(c.seed);
  ModelConfig config;
  config.global = c.global;
  config.window = c.window;
  TrialData data{c.global, c.window, 128, true, {}, {}};
  std::vector<StoredAttention> stored;
  for (int layer = 0; layer < 4; ++layer) {
    const bool windowed = c.window_only || layer % 2 == 1;
    Drawn drawn = Fused(windowed ? c.window : c.global, c.chunks, c.apart);
    drawn.magnitude = c.magnitude;
    data.tiles.push_back(Quantize(drawn, windowed, c.rule, &random));
    CodeTiles& tiles = data.tiles.back().arrays[0];
    for (size_t i = 0; i < tiles.most.size(); ++i)
      if (std::uniform_real_distribution<double>()(random) < c.damaged ||
          (c.spoiled && windowed && drawn.letters[i / kColumns] != 0))
        tiles.most[i] = 0x60;
    for (float& scale : tiles.scales)
      if (c.rough) scale *= static_cast<float>(std::exp(std::normal_distribution<double>(0, 1.2)(random)));
    for (float& level : tiles.level)
      if (c.rough) level = static_cast<float>(std::normal_distribution<double>(4, 0.02)(random));
    if (c.constant) std::fill(tiles.most.begin(), tiles.most.end(), uint8_t{0x7E});
    stored.push_back(
        {static_cast<uint32_t>(layer), windowed, true, {tiles.tiles * kTile, 0, 0}, {tiles.scale_rows, -1, -1}});
  }
  return TryCandidates(CandidatesFor(config, stored, /*fused=*/true, {}), data);
}

std::string Proven(const std::vector<Tried>& tried) {
  std::string name;
  for (const Tried& t : tried)
    if (t.standing == Standing::kProven) name += t.candidate.tested.ToString();
  return name;
}

// A candidate by its name; one that nothing speaks of where there is none.
Tried Of(const std::vector<Tried>& tried, const std::string& name) {
  const auto found =
      std::find_if(tried.begin(), tried.end(), [&](const Tried& t) { return t.candidate.tested.ToString() == name; });
  EXPECT_NE(found, tried.end()) << name;
  return found == tried.end() ? Tried() : *found;
}

bool SpeaksAgainst(const Tried& tried, TrialTest test) {
  return std::any_of(tried.evidence.begin(), tried.evidence.end(),
                     [&](const TrialEvidence& e) { return e.test == test && e.says == Says::kAgainst; });
}

TEST(TrialTest, BlocksOverTheWholeChunkAreToldFromBlocksThatBeginAnew) {
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    const std::vector<Tried> over = Try({.seed = seed});
    EXPECT_EQ(Proven(over), "fused(4)") << seed;
    EXPECT_TRUE(SpeaksAgainst(Of(over, "fused(4) with grids apart"), TrialTest::kSaturation));
    EXPECT_TRUE(SpeaksAgainst(Of(over, "fused(2)"), TrialTest::kShapes));
    EXPECT_EQ(Proven(Try({.apart = true, .seed = seed})), "fused(4) with grids apart") << seed;
  }
}

TEST(TrialTest, HalvesDecideWhereTheLargestValuesAreAllOfK) {
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    const std::vector<Tried> tried = Try({.magnitude = {1, 4, 0.7}, .seed = seed});
    EXPECT_EQ(Proven(tried), "fused(4)") << seed;
    const Tried apart = Of(tried, "fused(4) with grids apart");
    EXPECT_FALSE(SpeaksAgainst(apart, TrialTest::kSaturation));
    EXPECT_TRUE(SpeaksAgainst(apart, TrialTest::kHalves));
    EXPECT_EQ(Proven(Try({.apart = true, .magnitude = {1, 4, 0.7}, .seed = seed})), "fused(4) with grids apart");
  }
}

TEST(TrialTest, OneGridAndManyOrdersAreToldByTheNormsOfRows) {
  for (int64_t chunks : {1, 2, 4}) {
    const std::vector<Tried> tried =
        Try({.chunks = chunks, .magnitude = {1.2, 1, 0.8}, .window_only = true, .seed = 7});
    EXPECT_EQ(Proven(tried), "fused(" + std::to_string(chunks) + ")");
    for (int64_t other : {1, 2, 4})
      EXPECT_EQ(SpeaksAgainst(Of(tried, "fused(" + std::to_string(other) + ")"), TrialTest::kRowNorms),
                other != chunks);
  }
  EXPECT_EQ(Proven(Try({.magnitude = {1, 1, 1}, .window_only = true})), "");
}

TEST(TrialTest, BlocksThatNoLargestValueFillsProveNothing) {
  for (const bool apart : {false, true})
    for (const Tried& tried : Try({.apart = apart, .rule = false}))
      EXPECT_EQ(tried.standing, tried.candidate.fits() ? Standing::kUndecided : Standing::kContradicted);
}

TEST(TrialTest, HalvesOfRoughWeightsDecideNothing) {
  // Codes go on smoothly over the border, as the wrong reading has it, and so they do everywhere.
  for (uint32_t seed = 1; seed <= 10; ++seed)
    EXPECT_NE(Of(Try({.magnitude = {1, 4, 0.7}, .rough = true, .seed = seed}), "fused(4)").standing,
              Standing::kContradicted);
}

TEST(TrialTest, ShapesAloneProveNothing) {
  // Two KV heads: two chunks would have other rows of scales, and blocks of one end with K and with V.
  const AttentionShape two{8, 2, 192, 128};
  EXPECT_EQ(Proven(Try({.chunks = 1, .global = two, .window = two})), "fused(1)");
  const std::vector<Tried> tried = Try({.chunks = 1, .rule = false, .global = two, .window = two});
  EXPECT_EQ(Proven(tried), "");
  EXPECT_EQ(Of(tried, "fused(1)").standing, Standing::kUndecided);
  EXPECT_EQ(Proven(Try({.chunks = 1, .global = two, .window = two, .constant = true})), "");
}

TEST(TrialTest, OneKindOfLayersTellsWhereTheOtherWasQuantizedAgain) {
  EXPECT_EQ(Proven(Try({.window = kGlobal, .spoiled = true})), "fused(4)");
  EXPECT_EQ(Proven(Try({.apart = true, .window = kGlobal, .spoiled = true})), "fused(4) with grids apart");
}

TEST(TrialTest, DamageContradictsNothingThatIsTrue) {
  int proven = 0;
  for (uint32_t seed = 1; seed <= 50; ++seed)
    for (const bool apart : {false, true}) {
      const std::vector<Tried> tried = Try({.apart = apart, .damaged = 0.01, .seed = seed});
      const std::string truth = apart ? "fused(4) with grids apart" : "fused(4)";
      EXPECT_NE(Of(tried, truth).standing, Standing::kContradicted) << seed;
      proven += Proven(tried) == truth;
    }
  EXPECT_GT(proven, 90);
}

TEST(TallyTest, ToleratesDamageAndNothingElse) {
  EXPECT_TRUE((SaturationTally{1000, 10}).Holds());
  EXPECT_TRUE((SaturationTally{0, 0}).Holds());
  EXPECT_FALSE((SaturationTally{1000, 60}).Holds());
  EXPECT_FALSE((SaturationTally{1000, 60}).Fails());  // more than damage is, less than a wrong grid has
  EXPECT_TRUE((SaturationTally{1000, 250}).Fails());
  EXPECT_FALSE((SaturationTally{4, 2}).Fails());  // may be chance
}

TEST(TallyTest, BinomialTailAgreesWithSumsByHand) {
  EXPECT_DOUBLE_EQ(BinomialTail(10, 0, 0.3), 1);
  EXPECT_NEAR(BinomialTail(3, 2, 0.5), 0.5, 1e-12);
  EXPECT_NEAR(BinomialTail(4, 4, 0.1), 1e-4, 1e-12);
  EXPECT_NEAR(BinomialTail(2, 1, 0.1), 0.19, 1e-12);
  EXPECT_EQ(BinomialTail(3, 4, 0.5), 0);
}

// K has 192 rows in a chunk: blocks of 128 and, shared with V, of 64 + 64; V ends with 64 of its own. Anew, they are
// 128, 64 and 128.
TEST(GridOfLayerTest, CellsThatTellAreThoseThatHoldNoWholeBlock) {
  std::mt19937 random(3);
  const LayerTiles layer = Quantize(Fused(kGlobal, 4, false), false, true, &random);
  const TestedLayout over{{QkvKind::kFused, 4}}, anew{{QkvKind::kFused, 4}, true};
  const GridOfLayer x(layer, MapOf(over, kGlobal, 128), kGlobal), y(layer, MapOf(anew, kGlobal, 128), kGlobal);
  EXPECT_EQ(x.Differing(y).cells, 8u * kColumns);
  EXPECT_EQ(x.Common(y).cells, 16u * kColumns);
  EXPECT_EQ(y.Telling(x).cells, 4u * kColumns);  // 64 rows of K; those of V hold the last block of the chunk
  EXPECT_EQ(x.Telling(y).cells, 4u * kColumns);  // 64 rows of V; the shared block holds the last of K
  EXPECT_EQ(x.Telling(y).unsaturated, 0u);
  EXPECT_GT(y.Telling(x).unsaturated, kColumns);
  EXPECT_LT(y.Telling(x).unsaturated, 3u * kColumns);
  EXPECT_EQ(x.Q().cells, 12u * kColumns);
  EXPECT_EQ(x.Kv().cells, 12u * kColumns);
  const CutCells cut = x.CutOutOf(y);
  EXPECT_DOUBLE_EQ(cut.least, 0.5);  // half of a block of V
  EXPECT_LE(cut.tally.cells, 4u * kColumns);
  EXPECT_EQ(cut.tally.unsaturated, 0u);
  EXPECT_DOUBLE_EQ((CutCells{{8, 0}, 0.5}).Chance(), std::pow(0.65, 8));
  EXPECT_DOUBLE_EQ(CutCells().Chance(), 1);
}

TEST(TestedLayoutsTest, CandidatesThatMeanTheSameAreOne) {
  ModelConfig config;
  config.global = kGlobal;
  config.window = kWindow;
  // q, k and v by themselves: what 1 and 2 chunks would be cut out of has the same blocks.
  const std::vector<StoredAttention> own = {{0, false, true, {1536, 768, 512}, {12, 6, 4}}};
  const std::vector<Candidate> split = CandidatesFor(config, own, /*fused=*/false, {});
  EXPECT_EQ(split[0].tested.ToString(), "split(independent)");
  EXPECT_TRUE(split[0].fits());
  EXPECT_EQ(split[0].same.size(), 2u);
  // K has two rows of scales in each chunk of four: blocks that K and V share, or that begin anew at V.
  const std::vector<StoredAttention> cut = {{0, false, true, {1536, 768, 512}, {12, 8, 4}}};
  std::string fit;
  for (const Candidate& c : CandidatesFor(config, cut, false, {}))
    if (c.fits()) fit += c.tested.ToString() + ";";
  EXPECT_EQ(fit, "split(4);split(4) with grids apart;");
  // Without blocks every split is the same.
  const std::vector<StoredAttention> values = {{0, false, false, {1536, 768, 512}, {-1, -1, -1}}};
  EXPECT_EQ(CandidatesFor(config, values, false, {}).size(), 1u);
  // What is declared is tried too, though it cannot be.
  const std::vector<StoredAttention> fused = {{0, false, false, {2816, 0, 0}, {-1, -1, -1}}};
  const std::vector<Candidate> with = CandidatesFor(config, fused, true, {{QkvKind::kFused, 5}});
  EXPECT_EQ(with.back().tested.ToString(), "fused(5)");
  EXPECT_FALSE(with.back().fits());
}

TEST(CodeTilesTest, SumsUpTilesAndColumnBlocks) {
  std::vector<uint8_t> codes(16 * 12, 0x38);  // 1.0
  codes[3] = 0xFE;                            // -448, first tile, first block
  codes[8 * 12 + 10] = 0x7F;                  // NaN is no code
  for (size_t r = 8; r < 16; ++r)
    for (size_t c = 0; c < 8; ++c) codes[r * 12 + c] = 0;
  const CodeTiles tiles = SumUp(codes.data(), 16, 12, 8, 8);
  ASSERT_EQ(tiles.tiles, 2);
  ASSERT_EQ(tiles.columns, 2);
  EXPECT_EQ(tiles.most, (std::vector<uint8_t>{0x7E, 0x38, 0, 0x38}));
  EXPECT_NEAR(tiles.level[0], 2 * std::log((63 + std::sqrt(448.0)) / 64), 1e-5);
  EXPECT_NEAR(tiles.level[1], 0, 1e-6);
  EXPECT_TRUE(std::isnan(tiles.level[2]));
  EXPECT_EQ(CodeTileRows(kGlobal, 128), 64);
  EXPECT_EQ(CodeTileRows(kGlobal, 64), 32);
  EXPECT_EQ(CodeTileRows({8, 4, 190, 128}, 128), 0);
}

}  // namespace
}  // namespace mimo::trial_test
