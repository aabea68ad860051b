#include "lib/judge/descent.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>

namespace mimo::descent_test {
namespace {

StrandPair Pair(UnitKind kind, int64_t unit, int64_t rows, int64_t cols, Role role) {
  StrandPair pair;
  pair.kind = kind;
  pair.unit = unit;
  pair.id.role = role;
  pair.run.rows = pair.reference.rows = rows;
  pair.run.cols = pair.reference.cols = cols;
  return pair;
}

const std::vector<StrandPair>& Shapes() {
  static const std::vector<StrandPair> shapes = {Pair(UnitKind::kHead, 192, 64 * 192, 4096, Role::kAttnQ),
                                                 Pair(UnitKind::kHead, 128, 8 * 128, 6144, Role::kAttnV),
                                                 Pair(UnitKind::kHeadColumns, 128, 4096, 64 * 128, Role::kAttnO),
                                                 Pair(UnitKind::kRow, 1, 256, 4096, Role::kRouter),
                                                 Pair(UnitKind::kStrip, 32, 2048, 4096, Role::kExpertGate),
                                                 Pair(UnitKind::kStrip, 32, 4096, 2048, Role::kExpertDown),
                                                 Pair(UnitKind::kStrip, 32, 16384, 6144, Role::kMlpUp),
                                                 Pair(UnitKind::kStrip, 32, 1000, 4096, Role::kEmbed),
                                                 Pair(UnitKind::kStrip, 32, 100, 100, Role::kVision),
                                                 Pair(UnitKind::kVector, 1, 1, 4096, Role::kInputNorm),
                                                 Pair(UnitKind::kVector, 1, 1, 64, Role::kAttnSink)};
  return shapes;
}

TEST(Sample, HasEnoughOfEveryUnitAndNothingTwice) {
  for (const StrandPair& pair : Shapes()) {
    std::map<int64_t, int64_t> elements;
    std::set<std::pair<int64_t, int64_t>> rows;
    for (const SampledRow& piece : SampleOf(pair)) {
      EXPECT_TRUE(rows.insert({piece.unit, piece.row}).second);
      ASSERT_GE(piece.row, 0);
      ASSERT_LT(piece.row, pair.run.rows);
      ASSERT_LE(piece.col + piece.cols, pair.run.cols);
      EXPECT_EQ(piece.col % 128, 0);
      EXPECT_TRUE(piece.cols % 128 == 0 || piece.cols == pair.run.cols);
      if (pair.kind == UnitKind::kHeadColumns) {
        for (int64_t u = 0; u < pair.units(); ++u) elements[u] += pair.unit;
        continue;
      }
      EXPECT_EQ(piece.row / pair.unit, piece.unit);
      elements[piece.unit] += piece.cols;
    }
    ASSERT_EQ(static_cast<int64_t>(elements.size()), pair.units());
    for (const auto& [unit, count] : elements) {
      const int64_t rows_of_unit =
          pair.kind == UnitKind::kHeadColumns ? pair.run.rows : std::min(pair.unit, pair.run.rows - unit * pair.unit);
      const int64_t cols = pair.kind == UnitKind::kHeadColumns ? pair.unit : pair.run.cols;
      EXPECT_GE(count, std::min(int64_t{4096}, rows_of_unit * cols)) << pair.UnitName(unit);
    }
  }
}

// Experts are nearly all of a model, and the run is read for nothing else before it is converted.
TEST(Sample, IsAFewPercentOfAnExpert) {
  double sampled = 0, all = 0;
  for (const StrandPair& pair : Shapes()) {
    if (!std::set{Role::kExpertGate, Role::kExpertDown}.contains(pair.id.role)) continue;
    const double times = pair.id.role == Role::kExpertGate ? 2 : 1;  // gate and up
    for (const SampledRow& piece : SampleOf(pair)) sampled += times * static_cast<double>(piece.cols);
    all += times * static_cast<double>(pair.run.rows * pair.run.cols);
  }
  EXPECT_LT(sampled / all, 0.045);
}

TEST(Sample, OtherUnitsShowOtherRowsAndColumns) {
  const StrandPair& gate = Shapes()[4];
  std::set<int64_t> rows, columns;
  for (const SampledRow& piece : SampleOf(gate)) {
    rows.insert(piece.row % gate.unit);
    columns.insert(piece.col);
  }
  EXPECT_EQ(rows.size(), 32u);
  EXPECT_EQ(columns.size(), 2u);
}

TEST(Likeness, IsTheCosine) {
  std::vector<float> a, b;
  double dot = 0, aa = 0, bb = 0;
  for (int i = 0; i < 1003; ++i) {
    a.push_back(std::sin(static_cast<float>(i)));
    b.push_back(std::sin(static_cast<float>(i) + 0.5f));
    dot += double{a.back()} * b.back();
    aa += double{a.back()} * a.back();
    bb += double{b.back()} * b.back();
  }
  Likeness likeness;
  likeness.Add(a, b);
  EXPECT_NEAR(likeness.cosine(), dot / std::sqrt(aa * bb), 1e-12);
  EXPECT_EQ(likeness.elements, 1003u);
}

TEST(Likeness, ZeroIsLikeZeroAlone) {
  const std::vector<float> zero(8, 0.0f), one(8, 1.0f);
  Likeness both, either;
  both.Add(zero, zero);
  either.Add(zero, one);
  EXPECT_EQ(both.cosine(), 1);
  EXPECT_EQ(either.cosine(), 0);
}

TEST(Likeness, WhatIsNotFiniteIsLeftOut) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> a = {1, nan, 2, 3}, b = {1, 5, infinity, 3};
  Likeness likeness;
  likeness.Add(a, b);
  EXPECT_EQ(likeness.elements, 2u);
  EXPECT_NEAR(likeness.cosine(), 1, 1e-12);
  Likeness large;  // squares beyond FP32
  const std::vector<float> huge = {3e38f, -3e38f};
  large.Add(huge, huge);
  EXPECT_NEAR(large.cosine(), 1, 1e-12);
}

}  // namespace
}  // namespace mimo::descent_test
