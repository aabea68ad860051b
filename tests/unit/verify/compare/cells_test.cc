// Maps of cells by hand: what they tell of factors, and what damage on top does not change.
#include "lib/verify/compare/cells.h"

#include <gtest/gtest.h>

#include <cmath>

namespace mimo::cells_test {
namespace {

CellMap MapOf(int64_t rows, int64_t across) {
  CellMap map;
  map.rows = rows;
  map.across = across;
  map.kinds.assign(static_cast<size_t>(rows * across), CellKind::kSame);
  map.ratios.assign(map.kinds.size(), 1);
  return map;
}

void Put(CellMap* map, int64_t row, int64_t col, CellKind kind, float ratio = 0) {
  const auto at = static_cast<size_t>(row * map->across + col);
  map->kinds[at] = kind;
  map->ratios[at] = ratio;
}

void PutRows(CellMap* map, int64_t first, int64_t end, float ratio) {
  for (int64_t r = first; r < end; ++r)
    for (int64_t c = 0; c < map->across; ++c) Put(map, r, c, CellKind::kMultiple, ratio);
}

TEST(CellSums, TellsMultiplesFromOtherValues) {
  CellSums twice, other, none, negated;
  for (int i = 1; i < 100; ++i) {
    const float x = static_cast<float>(i % 7 - 3);
    twice.Add(x, 2 * x);
    other.Add(x, static_cast<float>(i % 11 - 5));
    none.Add(0, 0);
    negated.Add(x, -x);
  }
  EXPECT_EQ(twice.Kind(), CellKind::kMultiple);
  EXPECT_FLOAT_EQ(twice.ratio(), 2);
  EXPECT_EQ(other.Kind(), CellKind::kOther);
  EXPECT_EQ(none.Kind(), CellKind::kEmpty);
  EXPECT_EQ(negated.Kind(), CellKind::kOther);
}

TEST(CellSums, WhatIsNoNumberIsNoMultiple) {
  CellSums sums;
  sums.Add(1, NAN);
  sums.Add(2, 2);
  EXPECT_EQ(sums.Kind(), CellKind::kOther);
}

TEST(IsEnough, AFewMayBeDamaged) {
  EXPECT_TRUE(IsEnough(100, 0, 100));
  EXPECT_TRUE(IsEnough(100, 10, 110));
  EXPECT_FALSE(IsEnough(100, 30, 130));
  EXPECT_TRUE(IsEnough(128, 30, 1000));  // 3 % of all
  EXPECT_FALSE(IsEnough(20, 30, 1000));  // as much damage as there is to explain
  EXPECT_FALSE(IsEnough(0, 0, 100));
}

TEST(FindFactor, OfAllValues) {
  CellMap map = MapOf(200, 4);
  PutRows(&map, 0, 200, 0.707f);
  EXPECT_EQ(FindFactor(map).kind, "values.scaled");
  EXPECT_FLOAT_EQ(static_cast<float>(FindFactor(map).factor), 0.707f);
  for (int64_t r = 0; r < 8; ++r) Put(&map, r * 25, r % 4, CellKind::kOther);  // 1 % damaged
  EXPECT_EQ(FindFactor(map).kind, "values.scaled");
}

TEST(FindFactor, OfAPartAndOfOneBlock) {
  CellMap map = MapOf(384, 4);
  PutRows(&map, 96, 128, 3);
  PutRows(&map, 288, 320, 3);
  const PlaceFinding part = FindFactor(map);
  EXPECT_EQ(part.kind, "values.scaled-part");
  EXPECT_NE(part.evidence.find("rows 96 to 127 of every 192"), std::string::npos) << part.evidence;
  CellMap single = MapOf(384, 4);
  for (int64_t r = 128; r < 256; ++r) Put(&single, r, 2, CellKind::kMultiple, 0.5f);
  EXPECT_EQ(FindFactor(single).kind, "scale.single");
}

TEST(FindFactor, NoneWhereFactorsDiffer) {
  CellMap map = MapOf(256, 2);
  for (int64_t r = 0; r < 256; ++r) PutRows(&map, r, r + 1, 1.5f + static_cast<float>(r % 13));
  EXPECT_EQ(FindFactor(map).kind, "");
  EXPECT_EQ(FindRowFactors(map).kind, "rows.scaled");
  EXPECT_EQ(FindFactor(MapOf(16, 2)).kind, "");
  EXPECT_EQ(FindRowFactors(MapOf(16, 2)).kind, "");
}

TEST(RowsOfEvery, FindsARunInHeadsAndInBlocks) {
  std::vector<uint8_t> heads(4 * 192, 0), blocks(5 * 128, 0);
  for (size_t i = 0; i < heads.size(); ++i) heads[i] = i % 192 >= 96 && i % 192 < 128;
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = i % 128 < 64;
  EXPECT_EQ(RowsOfEvery(heads), "rows 96 to 127 of every 192");
  EXPECT_EQ(RowsOfEvery(blocks), "rows 0 to 63 of every 128");
  heads[3] = 1;  // a stray row
  EXPECT_EQ(RowsOfEvery(heads), "rows 96 to 127 of every 192");
  EXPECT_EQ(RowsOfEvery(std::vector<uint8_t>(384, 1)), "");
  EXPECT_EQ(RowsOfEvery(std::vector<uint8_t>(100, 1)), "");
}

}  // namespace
}  // namespace mimo::cells_test
