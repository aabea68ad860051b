// Rows drawn here in the order of a known layout: which layouts their norms prove, contradict or leave open. Layouts
// are built by hand, not by the row map of the library.
#include "lib/layout/row_order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>

namespace mimo::row_order_test {
namespace {

struct Drawn {
  int64_t heads = 16, kv = 4, swa_kv = 8;
  int layers = 4;           // kinds in turns, the full ones first
  double contrast = 1;      // of Q over K and of K over V
  double noise = 0.01;      // of a tile
  double head_spread = 0;   // of heads, all rows of one alike
  double drift = 0;         // of stretches of a fifth of the rows
  double block_spread = 0;  // of 128 rows, counted from where a chunk begins
  double rotary = 0;        // how much the first rows of every head of Q and K differ
  bool heavy_tails = false;
};
constexpr int64_t kTile = 64, kHeadTiles = 3, kVTiles = 2;

AttentionShape Shape(const Drawn& d, bool windowed) {
  return {d.heads, windowed ? d.swa_kv : d.kv, 192, 128};
}

RowProfile Draw(const Drawn& d, bool windowed, int64_t chunks, std::mt19937* random) {
  std::normal_distribution<double> normal;
  std::student_t_distribution<double> tails(3);
  const auto deviate = [&](double size) { return size * (d.heavy_tails ? tails(*random) : normal(*random)); };
  const int64_t kv = windowed ? d.swa_kv : d.kv;
  RowProfile profile{windowed, kTile, {}};
  const int64_t total = d.heads * kHeadTiles + kv * (kHeadTiles + kVTiles);
  std::vector<double> stretch(6);
  for (double& s : stretch) s = deviate(d.drift);
  double block = 0;
  for (int64_t c = 0; c < chunks; ++c) {
    int64_t in_chunk = 0;
    for (int letter = 0; letter < 3; ++letter) {
      const int64_t mine = (letter == 0 ? d.heads : kv) / chunks;
      for (int64_t h = 0; h < mine; ++h) {
        const double head = deviate(d.head_spread);
        for (int64_t t = 0; t < (letter == 2 ? kVTiles : kHeadTiles); ++t) {
          if (in_chunk++ % 2 == 0) block = deviate(d.block_spread);
          const auto at = static_cast<double>(profile.tiles.size()) / static_cast<double>(total);
          profile.tiles.push_back(static_cast<float>(-letter * std::log(d.contrast) +
                                                     (letter < 2 && t == 0 ? d.rotary : 0) + head + block +
                                                     stretch[static_cast<size_t>(at * 5)] + deviate(d.noise)));
        }
      }
    }
  }
  return profile;
}

RowOrder Order(const Drawn& d, int64_t chunks, std::mt19937* random) {
  std::vector<RowProfile> profiles;
  for (int i = 0; i < d.layers; ++i) profiles.push_back(Draw(d, i % 2 == 1, chunks, random));
  return OrderOfRows(profiles, Shape(d, false), Shape(d, true));
}

struct SaturationTally {
  int right = 0, open = 0, wrong = 0;
};
SaturationTally Try(const Drawn& d, int rounds, uint32_t seed) {
  SaturationTally tally;
  std::mt19937 random(seed);
  for (int i = 0; i < rounds; ++i)
    for (int64_t chunks : {1, 2, 4}) {
      const RowOrder order = Order(d, chunks, &random);
      EXPECT_EQ(order.chunks, (std::vector<int64_t>{1, 2, 4}));
      const std::optional<int64_t> proven = order.Proven();
      if (order.Contradicts(chunks) || (proven && *proven != chunks))
        ++tally.wrong;
      else if (proven)
        ++tally.right;
      else
        ++tally.open;
    }
  return tally;
}

int Rounds() {
  const char* more = std::getenv("MIMO_ROW_ORDER_ROUNDS");
  return more ? std::atoi(more) : 12;
}

// Noise as rows of 128 columns have it, 6 % each, and rows of 4096, where 4 of a tile are read.
TEST(RowOrder, SmallContrastIsEnoughWhateverTheSize) {
  for (double noise : {0.0001, 0.0078, 0.003, 0.02})
    for (int layers : {2, 4, 8})
      for (int64_t heads : {8, 16, 64})
        for (double contrast : {1.1, 1 / 1.1, 1.3, 16.0}) {
          Drawn d;
          d.noise = noise;
          d.layers = layers;
          d.heads = heads;
          d.contrast = contrast;
          const SaturationTally tally = Try(d, 2, 7);
          const int possible = 3 * 2;
          EXPECT_EQ(tally.right, possible) << noise << " " << layers << " " << heads << " " << contrast;
        }
}

TEST(RowOrder, WithoutContrastNothingIsDecidedWhateverElseDiffers) {
  const auto with = [](auto change) {
    Drawn d;
    change(d);
    return d;
  };
  const std::vector<Drawn> all = {
      with([](Drawn&) {}),
      with([](Drawn& d) { d.noise = 0.0001; }),
      with([](Drawn& d) { d.noise = 1; }),
      with([](Drawn& d) { d.heavy_tails = true; }),
      with([](Drawn& d) { d.head_spread = 0.2; }),
      with([](Drawn& d) { d.head_spread = 0.5, d.heavy_tails = true; }),
      with([](Drawn& d) { d.drift = 0.3; }),
      with([](Drawn& d) { d.drift = 0.1, d.head_spread = 0.1; }),
      with([](Drawn& d) { d.block_spread = 1; }),
      with([](Drawn& d) { d.block_spread = 0.1, d.head_spread = 0.1; }),
  };
  for (size_t i = 0; i < all.size(); ++i)
    for (int layers : {1, 2, 4, 8})
      for (int64_t heads : {8, 16, 64}) {
        Drawn d = all[i];
        d.layers = layers;
        d.heads = heads;
        const SaturationTally tally = Try(d, Rounds(), 11);
        EXPECT_EQ(tally.wrong, 0) << i << " layers " << layers << " heads " << heads;
      }
}

TEST(RowOrder, ContrastIsSeenBesideHeadsThatDiffer) {
  Drawn d;
  d.heads = 64;
  d.layers = 8;
  d.head_spread = 0.15;
  d.contrast = 1.6;
  EXPECT_EQ(Try(d, 20, 3).right, 60);
}

// Noise of tiles of 40 % / sqrt(columns / 128): patches of 64 x 128 whose magnitudes are spread over two octaves. No
// layer tells enough; that Q, K and V differ by as much in all of them does. (A test that knew the noise and the
// contrast would need 14 nats for one error in a million; there are 6.2 for each 128 columns.)
TEST(RowOrder, LayersTellTogetherWhatNoneTellsAlone) {
  Drawn d;
  d.layers = 6;
  d.contrast = 1.1;
  d.noise = 0.14;
  const SaturationTally tally = Try(d, 20, 3);
  EXPECT_EQ(tally.wrong, 0);
  EXPECT_GE(tally.right, 45);    // of 60
  d.noise = 1.2 / std::sqrt(2);  // six octaves, 256 columns: 1.4 nats
  EXPECT_EQ(Try(d, 20, 3).open, 60);
}

TEST(RowOrder, RotaryRowsTellWhereHeadsBegin) {
  Drawn d;
  d.rotary = 0.1;
  EXPECT_EQ(Try(d, 20, 3).right, 60);
}

TEST(RowOrder, OneKindOfLayersMayContradictWhatTheOtherDoesNot) {
  std::mt19937 random(5);
  Drawn d;
  d.contrast = 1.3;
  std::vector<RowProfile> profiles{Draw(d, false, 4, &random), Draw(d, true, 8, &random)};  // Megatron's own order
  const RowOrder order = OrderOfRows(profiles, Shape(d, false), Shape(d, true));
  EXPECT_TRUE(order.Contradicts(4));
  EXPECT_FALSE(order.Proven());
  EXPECT_TRUE(order.Unbeaten().empty());
}

TEST(RowOrder, TilesWithoutRowsAreLeftOut) {
  std::mt19937 random(5);
  Drawn d;
  d.contrast = 1.3;
  RowProfile profile = Draw(d, false, 2, &random);
  for (size_t i = 0; i < profile.tiles.size(); i += 5) profile.tiles[i] = NAN;
  EXPECT_EQ(OrderOfRows({profile}, Shape(d, false), Shape(d, true)).Proven(), 2);
  std::fill(profile.tiles.begin(), profile.tiles.end(), NAN);
  EXPECT_TRUE(OrderOfRows({profile}, Shape(d, false), Shape(d, true)).duels.empty());
  EXPECT_TRUE(OrderOfRows({}, Shape(d, false), Shape(d, true)).chunks.empty());
}

TEST(RowOrder, TilesAreCutWhereNoHeadIs) {
  EXPECT_EQ(TileRows({64, 4, 192, 128}), 64);
  EXPECT_EQ(TileRows({64, 8, 128, 128}), 128);
  EXPECT_EQ(TileRows({64, 8, 6, 4}), 0);
  EXPECT_EQ(TileRows({64, 8, 0, 128}), 0);
}

}  // namespace
}  // namespace mimo::row_order_test
