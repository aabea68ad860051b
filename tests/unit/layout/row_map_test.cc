// Row maps against the formulas of the reference, row by row: every layout is checked by an independent per-row
// definition.
#include "lib/layout/row_map.h"

#include <gtest/gtest.h>

#include <map>

namespace mimo::row_map_test {
namespace {

const AttentionShape kFlashGlobal{64, 4, 192, 128}, kFlashWindow{64, 8, 192, 128}, kPro{128, 8, 192, 128};

struct Place {
  Projection projection;
  int64_t logical_row;
  int64_t scale_row;
};

// Row -> what it is, straight from the reference (mimo-checkpoints.md section 3.1), C <= G.
Place FusedRow(const AttentionShape& s, int64_t c, int64_t row) {
  const int64_t nq = s.heads / c, nk = s.kv_heads / c;
  const int64_t rq = nq * s.head_dim, rk = nk * s.head_dim, rv = nk * s.v_head_dim, r_all = rq + rk + rv;
  const int64_t blocks = (r_all + 127) / 128, i = row / r_all, r = row % r_all;
  const int64_t scale = i * blocks + r / 128;
  if (r < rq) return {Projection::kQ, (i * nq + r / s.head_dim) * s.head_dim + r % s.head_dim, scale};
  if (r < rq + rk)
    return {Projection::kK, (i * nk + (r - rq) / s.head_dim) * s.head_dim + (r - rq) % s.head_dim, scale};
  const int64_t v = r - rq - rk;
  return {Projection::kV, (i * nk + v / s.v_head_dim) * s.v_head_dim + v % s.v_head_dim, scale};
}

// The map, expanded to one entry per row of each array.
std::map<std::pair<int, int64_t>, std::tuple<Projection, int64_t, int, int64_t>> Expand(const QkvMap& map) {
  std::map<std::pair<int, int64_t>, std::tuple<Projection, int64_t, int, int64_t>> rows;
  for (const RowRun& run : map.runs)
    for (int64_t i = 0; i < run.rows; ++i)
      rows[{run.array, run.array_row + i}] = {run.projection, run.logical_row + i, -1, -1};
  for (const ScaleBand& band : map.bands)
    for (int64_t r = band.row_begin; r < band.row_end; ++r) {
      auto& entry = rows[{band.array, r}];
      EXPECT_EQ(std::get<2>(entry), -1) << "row covered twice";
      std::get<2>(entry) = band.scale_array;
      std::get<3>(entry) = band.scale_row;
    }
  return rows;
}

TEST(RowMap, FusedFollowsTheReferenceFormulaRowByRow) {
  for (const AttentionShape& shape : {kFlashGlobal, kFlashWindow, kPro}) {
    for (int64_t c : {1, 2, 4, 8}) {
      if (c > shape.kv_heads) continue;
      const QkvMap map = BuildQkvMap({QkvKind::kFused, c}, shape);
      const auto rows = Expand(map);
      ASSERT_EQ(static_cast<int64_t>(rows.size()), map.rows[0]);
      for (const auto& [key, value] : rows) {
        const Place place = FusedRow(shape, c, key.second);
        ASSERT_EQ(std::get<0>(value), place.projection) << "row " << key.second << " C " << c;
        ASSERT_EQ(std::get<1>(value), place.logical_row) << "row " << key.second << " C " << c;
        ASSERT_EQ(std::get<3>(value), place.scale_row) << "row " << key.second << " C " << c;
      }
    }
  }
}

TEST(RowMap, ReleasedShapes) {
  const auto rows = [](int64_t c, const AttentionShape& s) {
    const QkvMap map = BuildQkvMap({QkvKind::kFused, c}, s);
    return std::pair(map.rows[0], map.scale_rows[0]);
  };
  EXPECT_EQ(rows(4, kFlashGlobal), std::pair(int64_t{13568}, int64_t{108}));
  EXPECT_EQ(rows(4, kFlashWindow), std::pair(int64_t{14848}, int64_t{116}));
  EXPECT_EQ(rows(8, kPro), std::pair(int64_t{27136}, int64_t{216}));
  EXPECT_EQ(rows(1, kFlashGlobal), std::pair(int64_t{13568}, int64_t{106}));
  EXPECT_EQ(rows(1, kPro), std::pair(int64_t{27136}, int64_t{212}));
  EXPECT_EQ(rows(8, kFlashGlobal),
            std::pair(int64_t{8 * 1856}, int64_t{8 * 15}));  // replicated: 8 Q heads, 1 K, 1 V per chunk
}

TEST(RowMap, GoldenRowsOfChunkedGrid) {
  const auto rows = Expand(BuildQkvMap({QkvKind::kFused, 4}, kFlashGlobal));
  for (const auto& [row, scale] :
       std::vector<std::pair<int64_t, int64_t>>{{3391, 26}, {3392, 27}, {3393, 27}, {3520, 28}, {13567, 107}})
    EXPECT_EQ(std::get<3>(rows.at({0, row})), scale) << row;
}

TEST(RowMap, SplitOfReleasedFlashSharesKsSecondScaleRowWithV) {
  const QkvMap map = BuildQkvMap({QkvKind::kSplit, 4}, kFlashGlobal);
  EXPECT_EQ(map.rows, (std::array<int64_t, 3>{12288, 768, 512}));
  EXPECT_EQ(map.scale_rows, (std::array<int64_t, 3>{96, 8, 4}));
  const auto rows = Expand(map);
  const auto scale = [&](int array, int64_t row) {
    const auto& e = rows.at({array, row});
    return std::pair(std::get<2>(e), std::get<3>(e));
  };
  // quantization-formats.md section 9.3
  EXPECT_EQ(scale(1, 0), std::pair(1, int64_t{0}));
  EXPECT_EQ(scale(1, 127), std::pair(1, int64_t{0}));
  EXPECT_EQ(scale(1, 128), std::pair(1, int64_t{1}));
  EXPECT_EQ(scale(1, 191), std::pair(1, int64_t{1}));
  EXPECT_EQ(scale(1, 192), std::pair(1, int64_t{2}));
  EXPECT_EQ(scale(2, 0), std::pair(1, int64_t{1}));
  EXPECT_EQ(scale(2, 63), std::pair(1, int64_t{1}));
  EXPECT_EQ(scale(2, 64), std::pair(2, int64_t{0}));
  EXPECT_EQ(scale(2, 127), std::pair(2, int64_t{0}));
  EXPECT_EQ(scale(2, 128), std::pair(1, int64_t{3}));
  EXPECT_EQ(scale(2, 192), std::pair(2, int64_t{1}));
}

TEST(RowMap, SplitOfWindowedFlashIsUniform) {
  QkvMap cut = BuildQkvMap({QkvKind::kSplit, 4}, kFlashWindow);
  const QkvMap independent = BuildQkvMap({QkvKind::kSplitIndependent, 1}, kFlashWindow);
  EXPECT_EQ(cut.scale_rows, (std::array<int64_t, 3>{96, 12, 8}));
  EXPECT_EQ(cut.bands, independent.bands);
}

// Above the KV heads a split layout has no copies to cut: it is that of as many chunks as KV heads, layer by layer.
TEST(RowMap, SplitAboveTheKvHeadsIsNotReplicated) {
  for (const int64_t c : {8, 16, 32}) {
    ASSERT_TRUE(LayoutFits({QkvKind::kSplit, c}, kFlashGlobal));
    const QkvMap map = BuildQkvMap({QkvKind::kSplit, c}, kFlashGlobal);
    EXPECT_EQ(map.rows, (std::array<int64_t, 3>{12288, 768, 512}));
    EXPECT_EQ(map.scale_rows, (std::array<int64_t, 3>{96, 8, 4}));
    EXPECT_EQ(map.bands, BuildQkvMap({QkvKind::kSplit, 4}, kFlashGlobal).bands);
  }
  // Windowed layers of split(8): one KV head per chunk. K has a whole block and one shared with V per head.
  const QkvMap window = BuildQkvMap({QkvKind::kSplit, 8}, kFlashWindow);
  EXPECT_EQ(window.rows, (std::array<int64_t, 3>{12288, 1536, 1024}));
  EXPECT_EQ(window.scale_rows, (std::array<int64_t, 3>{96, 16, 8}));
  EXPECT_EQ(BuildQkvMap({QkvKind::kSplit, 32}, kFlashWindow).bands, window.bands);
  // What was no divisor may become one where the KV heads are: the chunk count is no longer asked for.
  EXPECT_TRUE(LayoutFits({QkvKind::kSplit, 6}, kFlashGlobal));
  EXPECT_FALSE(LayoutFits({QkvKind::kSplit, 3}, kFlashGlobal));
  EXPECT_FALSE(LayoutFits({QkvKind::kSplit, 6}, kFlashWindow));
}

// A block of 64 rows: no K or V head of 192 or 128 rows shares a block with another.
TEST(RowMap, BlocksOfHalfTheHeightKeepKAndVApart) {
  for (const AttentionShape& shape : {kFlashGlobal, kFlashWindow, kPro}) {
    for (const int64_t c : {2, 4, 8}) {
      for (const QkvKind kind : {QkvKind::kFused, QkvKind::kSplit}) {
        const QkvMap map = BuildQkvMap({kind, c}, shape, 64);
        for (const ScaleBand& band : map.bands) {
          EXPECT_EQ(band.row_end - band.row_begin, 64);
          EXPECT_EQ(band.scale_array, band.array);
          EXPECT_EQ(band.scale_row, band.row_begin / 64);
        }
      }
    }
  }
}

TEST(RowMap, ReplicatedChunksHoldHeadFloorOfCGOverC) {
  for (int64_t c : {8, 16, 32}) {
    const QkvMap map = BuildQkvMap({QkvKind::kFused, c}, kFlashGlobal);
    for (const RowRun& run : map.runs) {
      const int64_t chunk = run.array_row / (map.rows[0] / c);
      if (run.projection == Projection::kQ) {
        EXPECT_EQ(run.logical_row, chunk * (64 / c) * 192);
        // Grouped-query pairing survives: every Q head of the chunk uses its KV head.
        EXPECT_EQ(run.logical_row / 192 * 4 / 64, chunk * 4 / c);
      } else {
        EXPECT_EQ(run.logical_row, chunk * 4 / c * (run.projection == Projection::kK ? 192 : 128));
      }
    }
  }
}

TEST(RowMap, FitsOnlyWhereHeadsDivide) {
  EXPECT_TRUE(LayoutFits({QkvKind::kFused, 8}, kFlashGlobal));
  EXPECT_FALSE(LayoutFits({QkvKind::kFused, 3}, kFlashGlobal));
  EXPECT_FALSE(LayoutFits({QkvKind::kFused, 0}, kFlashGlobal));
  EXPECT_FALSE(LayoutFits({QkvKind::kFused, 128}, kFlashGlobal));
  EXPECT_FALSE(LayoutFits({QkvKind::kFused, 6}, (AttentionShape{12, 4, 192, 128})));  // 6 is no multiple of 4
  EXPECT_TRUE(LayoutFits({QkvKind::kSplitIndependent, 1}, kPro));
}

TEST(ComposeRows, ThereAndBackIsTheIdentity) {
  std::vector<QkvLayout> layouts = {{QkvKind::kFused, 1},           {QkvKind::kFused, 2},  {QkvKind::kFused, 4},
                                    {QkvKind::kFused, 8},           {QkvKind::kFused, 16}, {QkvKind::kSplit, 4},
                                    {QkvKind::kSplitIndependent, 1}};
  for (const AttentionShape& shape : {kFlashGlobal, kFlashWindow, kPro}) {
    for (const QkvLayout& a : layouts) {
      for (const QkvLayout& b : layouts) {
        const QkvMap from = BuildQkvMap(a, shape), to = BuildQkvMap(b, shape);
        const auto source = Expand(from), target = Expand(to);
        std::map<std::pair<int, int64_t>, int> seen;
        for (const RowMove& move : ComposeRows(from, to))
          for (int64_t i = 0; i < move.rows; ++i) {
            const auto& x = source.at({move.source_array, move.source_row + i});
            const auto& y = target.at({move.target_array, move.target_row + i});
            ASSERT_EQ(std::get<0>(x), std::get<0>(y));
            ASSERT_EQ(std::get<1>(x), std::get<1>(y));
            ++seen[{move.target_array, move.target_row + i}];
          }
        ASSERT_EQ(seen.size(), target.size());
        for (const auto& [key, times] : seen) ASSERT_EQ(times, 1);
      }
    }
  }
}

// Heads beyond the source's are padding, those beyond the target's are left behind; the others are found by counting
// heads from the first. Row by row, by division.
TEST(ComposeRows, HeadsThatOneSideLacksArePaddedOrDropped) {
  const AttentionShape small{64, 4, 192, 128}, large{96, 6, 192, 128};
  for (const QkvLayout& from_layout : {QkvLayout{QkvKind::kFused, 4}, QkvLayout{QkvKind::kSplitIndependent, 1}}) {
    const QkvMap from = BuildQkvMap(from_layout, small), to = BuildQkvMap({QkvKind::kFused, 3}, large);
    const auto source = Expand(from), target = Expand(to);
    int64_t row = 0, padded = 0;
    for (const RowMove& move : ComposeRows(from, to)) {
      ASSERT_EQ(move.target_array, 0);
      ASSERT_EQ(move.target_row, row);
      for (int64_t i = 0; i < move.rows; ++i, ++row) {
        const auto& [projection, logical, array, scale] = target.at({0, row});
        const int64_t present = projection == Projection::kQ   ? 64 * 192
                                : projection == Projection::kK ? 4 * 192
                                                               : 4 * 128;
        ASSERT_EQ(move.source_array == kPaddingArray, logical >= present) << row;
        if (move.source_array == kPaddingArray) {
          ++padded;
          continue;
        }
        const auto& have = source.at({move.source_array, move.source_row + i});
        ASSERT_EQ(std::get<0>(have), projection);
        ASSERT_EQ(std::get<1>(have), logical);
      }
    }
    EXPECT_EQ(row, to.rows[0]);
    EXPECT_EQ(padded, 32 * 192 + 2 * 192 + 2 * 128);
    // And back: nothing is padding, everything is found.
    int64_t back = 0;
    for (const RowMove& move : ComposeRows(to, from)) {
      ASSERT_NE(move.source_array, kPaddingArray);
      for (int64_t i = 0; i < move.rows; ++i, ++back) {
        const auto& have = target.at({0, move.source_row + i});
        const auto& want = source.at({move.target_array, move.target_row + i});
        ASSERT_EQ(std::get<0>(have), std::get<0>(want));
        ASSERT_EQ(std::get<1>(have), std::get<1>(want));
      }
    }
    EXPECT_EQ(back, 64 * 192 + 4 * 320);
  }
}

TEST(ComposeRows, NeighboursAreOneMove) {
  const QkvMap split = BuildQkvMap({QkvKind::kSplitIndependent, 1}, kFlashGlobal);
  const QkvMap fused = BuildQkvMap({QkvKind::kFused, 4}, kFlashGlobal);
  EXPECT_EQ(ComposeRows(fused, split).size(), 12u);  // 4 chunks x Q, K, V
  EXPECT_EQ(ComposeRows(split, split).size(), 3u);
}

}  // namespace
}  // namespace mimo::row_map_test
