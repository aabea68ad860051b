// Maps of scales by hand: each wrong rule is told from the scales that are seen.
#include "lib/verify/compare/scales.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

#include "kernels/codec/e4m3.h"

namespace mimo::scales_test {
namespace {

// A block of `height` rows has one scale in every column of blocks.
ScaleMap MapOf(int64_t rows, int64_t across, const std::function<int64_t(int64_t)>& block_of) {
  ScaleMap map;
  map.every = 32;
  map.rows = rows / 32;
  map.across = across;
  std::mt19937 random(9);
  std::uniform_real_distribution<float> uniform(-2, 2);
  std::vector<std::vector<float>> scales;
  for (int64_t r = 0; r < map.rows; ++r) {
    const auto block = static_cast<size_t>(block_of(r * 32));
    while (scales.size() <= block) {
      scales.emplace_back();
      for (int64_t c = 0; c < across; ++c) scales.back().push_back(std::exp2(uniform(random)) * 1e-3f);
    }
    map.right.insert(map.right.end(), scales[block].begin(), scales[block].end());
  }
  map.seen = map.right;
  map.kinds.assign(map.right.size(), CellKind::kSame);
  return map;
}

void See(ScaleMap* map, const std::function<float(int64_t, int64_t)>& seen) {
  for (int64_t r = 0; r < map->rows; ++r)
    for (int64_t c = 0; c < map->across; ++c) {
      const size_t at = map->at(r, c);
      map->seen[at] = seen(r, c);
      map->kinds[at] =
          std::abs(map->seen[at] / map->right[at] - 1) <= kRatioNoise ? CellKind::kSame : CellKind::kMultiple;
    }
}

// The kind, with and without 1 % of the cells something else.
void ExpectScales(const std::string& kind, ScaleMap map) {
  EXPECT_EQ(FindScales(map, {}).kind, kind);
  for (size_t i = 7; i < map.kinds.size(); i += 100) {
    map.kinds[i] = CellKind::kOther;
    map.seen[i] = 0;
  }
  EXPECT_EQ(FindScales(map, {}).kind, kind) << "damaged";
}

int64_t Plain(int64_t row) {
  return row / 128;
}

// K of V2-Flash: blocks of 128 and of 64 rows in every head.
int64_t OfHeads(int64_t row) {
  return row / 192 * 2 + (row % 192 >= 128 ? 1 : 0);
}

TEST(Scales, OfOtherBlocks) {
  ScaleMap map = MapOf(2048, 8, Plain);
  EXPECT_EQ(FindScales(map, {}).kind, "");
  See(&map, [&](int64_t r, int64_t c) { return map.right[map.at(std::min(r + 4, map.rows - 1), c)]; });
  ExpectScales("scale.rows-shifted", map);
  See(&map, [&](int64_t r, int64_t c) { return map.right[map.at(r, std::min<int64_t>(c + 1, 7))]; });
  ExpectScales("scale.columns-shifted", map);
}

TEST(Scales, Transposed) {
  ScaleMap map = MapOf(1024, 8, Plain);
  See(&map, [&](int64_t r, int64_t c) { return map.right[map.at(c * 4, r / 4)]; });
  ExpectScales("scale.transposed", map);
}

TEST(Scales, OfAnotherHeight) {
  for (const int64_t height : {96, 128}) {
    ScaleMap map = MapOf(16 * 192, 8, OfHeads);
    // The scales one after the other, each for so many rows.
    See(&map, [&](int64_t r, int64_t c) {
      const int64_t block = r * 32 / height;
      return map.right[map.at((block / 2 * 192 + block % 2 * 128) / 32, c)];
    });
    ExpectScales("scale.block-height", map);
  }
}

TEST(Scales, OfAnotherGrid) {
  ScaleMap map = MapOf(1024, 8, [](int64_t row) { return row / 64; });
  See(&map, [&](int64_t r, int64_t c) { return map.right[map.at(r / 4 * 4 + 2, c)]; });
  ExpectScales("scale.grid", map);
  EXPECT_NE(FindScales(map, {}).evidence.find("rows 0 to 63 of every 128"), std::string::npos);
}

TEST(Scales, ThatAreNoScales) {
  ScaleMap map = MapOf(1024, 8, Plain);
  const auto right = [&](int64_t r, int64_t c) { return map.right[map.at(r, c)]; };
  See(&map, [&](int64_t, int64_t) { return 1.0f; });
  ExpectScales("scale.dropped", map);
  See(&map, [&](int64_t r, int64_t c) { return 1 / right(r, c); });
  ExpectScales("scale.inverted", map);
  See(&map, [&](int64_t r, int64_t c) { return right(r, c) * right(r, c); });
  ExpectScales("scale.twice", map);
  See(&map, [&](int64_t r, int64_t c) { return std::exp2(std::ceil(std::log2(right(r, c)))); });
  ExpectScales("scale.powers-of-two", map);
  See(&map, [&](int64_t r, int64_t c) { return right(r, c) * (1.2f + static_cast<float>((r / 4 * 7 + c * 3) % 11)); });
  ExpectScales("scale.blocks", map);
}

TEST(GlobalScale, IsKnownByTheNumbersThatItLeaves) {
  std::vector<float> multipliers;
  const float global = 1.37e-4f;
  for (uint8_t code = 1; code < 127; ++code) multipliers.push_back(kernels::E4m3ToFloat(code) * global);
  EXPECT_EQ(FindGlobalScale(multipliers, 1 / static_cast<double>(global)).kind, "scale.global-dropped");
  EXPECT_EQ(FindGlobalScale(multipliers, std::pow(static_cast<double>(global), -2)).kind, "scale.global-inverted");
  EXPECT_EQ(FindGlobalScale(multipliers, 2).kind, "");
  EXPECT_EQ(FindGlobalScale(multipliers, 0.707).kind, "");
  EXPECT_EQ(FindGlobalScale({}, 2).kind, "");
}

}  // namespace
}  // namespace mimo::scales_test
