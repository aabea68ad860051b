// Rows are recognised under factors, noise and damage, and not mistaken for one another.
#include "lib/verify/compare/sketch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace mimo::sketch_test {
namespace {

using Rows = std::vector<std::vector<float>>;

Rows RandomRows(size_t count, size_t cols, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Rows rows(count, std::vector<float>(cols));
  for (auto& row : rows)
    for (float& value : row) value = normal(random);
  return rows;
}

std::vector<RowSketch> SketchesOf(const Rows& rows) {
  const auto cols = static_cast<int64_t>(rows[0].size());
  SketchMaker maker(static_cast<int64_t>(rows.size()), cols);
  for (size_t r = 0; r < rows.size(); ++r)
    for (int64_t c = 0; c < cols; ++c) maker.Add(static_cast<int64_t>(r), c, rows[r][static_cast<size_t>(c)]);
  return maker.Sketches();
}

TEST(Sketch, FindsEveryRowAndNoOther) {
  for (const size_t cols : {64, 128, 512, 4096}) {
    const Rows rows = RandomRows(128, cols, 1), others = RandomRows(128, cols, 2);
    const std::vector<RowSketch> sketches = SketchesOf(rows), strange = SketchesOf(others);
    for (size_t r = 0; r < rows.size(); ++r) {
      EXPECT_EQ(FindRow(sketches[r], sketches, static_cast<int64_t>(cols)), static_cast<int64_t>(r)) << cols;
      EXPECT_EQ(FindRow(strange[r], sketches, static_cast<int64_t>(cols)), -1) << cols;
    }
  }
}

TEST(Sketch, FindsRowsUnderFactorsOfBlocksAndNoise) {
  Rows rows = RandomRows(256, 1024, 3);
  const std::vector<RowSketch> sketches = SketchesOf(rows);
  std::mt19937 random(4);
  std::normal_distribution<float> noise(0, 0.1f);
  for (auto& row : rows)
    for (size_t c = 0; c < row.size(); ++c)
      row[c] = (row[c] + noise(random)) * static_cast<float>(1 << (c / 128));  // other scales in every block
  const std::vector<RowSketch> changed = SketchesOf(rows);
  for (size_t r = 0; r < rows.size(); ++r) EXPECT_EQ(FindRow(changed[r], sketches, 1024), static_cast<int64_t>(r));
}

TEST(Sketch, FindsRowsWithAQuarterDamaged) {
  Rows rows = RandomRows(128, 1024, 5);
  const std::vector<RowSketch> sketches = SketchesOf(rows);
  const Rows damage = RandomRows(128, 1024, 6);
  for (size_t r = 0; r < rows.size(); ++r)
    std::copy(damage[r].begin() + 128, damage[r].begin() + 384, rows[r].begin() + 128);
  const std::vector<RowSketch> changed = SketchesOf(rows);
  for (size_t r = 0; r < rows.size(); ++r) EXPECT_EQ(FindRow(changed[r], sketches, 1024), static_cast<int64_t>(r));
}

TEST(Sketch, RowsOfZerosAndOfFewValuesAreNotKnown) {
  Rows rows(3, std::vector<float>(512, 0));
  rows[1][7] = 1;
  rows[2][8] = 1;
  const std::vector<RowSketch> sketches = SketchesOf(rows);
  EXPECT_TRUE(sketches[0].empty());
  EXPECT_FALSE(sketches[1].empty());
  for (const RowSketch& a : sketches)
    for (const RowSketch& b : sketches) EXPECT_FALSE(IsSameRow(a, b, 512));
}

TEST(Sketch, ANegatedRowIsAnother) {
  Rows rows = RandomRows(1, 512, 7);
  const RowSketch before = SketchesOf(rows)[0];
  for (float& value : rows[0]) value = -value;
  EXPECT_FALSE(IsSameRow(before, SketchesOf(rows)[0], 512));
}

}  // namespace
}  // namespace mimo::sketch_test
