// Pieces cut and joined, against a map of every element.
#include "lib/draft/cut_pieces.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <tuple>

namespace mimo::cut_pieces_test {
namespace {

using Element = std::tuple<uint32_t, int64_t, int64_t>;  // source, row, column
using Map = std::map<std::pair<int64_t, int64_t>, Element>;

// By the definition of Piece; elements of a piece without a source are all alike.
Map ElementsOf(const std::vector<Piece>& pieces, int64_t cols) {
  Map map;
  for (const Piece& p : pieces) {
    EXPECT_GT(p.rows, 0);
    const int64_t width = p.cols == 0 ? cols : p.cols;
    EXPECT_TRUE(p.cols != 0 || p.target_col == 0);
    for (int64_t r = 0; r < p.rows; ++r)
      for (int64_t c = 0; c < width; ++c) {
        const Element from =
            p.source == kNone ? Element{kNone, 0, 0} : Element{p.source, p.source_row + r, p.source_col + c};
        EXPECT_TRUE(map.emplace(std::pair(p.target_row + r, p.target_col + c), from).second) << "made twice";
      }
  }
  return map;
}

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  int64_t Upto(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n + 1)); }

  // Ascending cuts of n, both ends included.
  std::vector<int64_t> Cuts(int64_t n, int64_t most) {
    std::vector<int64_t> cuts = {0, n};
    for (int64_t i = Upto(most); i > 0; --i) cuts.push_back(Upto(n));
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    return cuts;
  }

  // An output whose bands of rows come from columns of sources; some of it is padding.
  OutputArray Output(int64_t rows, int64_t cols) {
    OutputArray output;
    output.shape = {rows, cols};
    const auto bands = Cuts(rows, 4);
    for (size_t b = 0; b + 1 < bands.size(); ++b) {
      const auto parts = Cuts(cols, 2);
      for (size_t c = 0; c + 1 < parts.size(); ++c) {
        Piece p;
        p.source = Upto(3) == 0 ? kNone : static_cast<uint32_t>(Upto(2));
        p.target_row = bands[b];
        p.rows = bands[b + 1] - bands[b];
        p.target_col = parts[c];
        p.cols = parts[c + 1] - parts[c];
        if (p.source != kNone) {
          // Sources that go on, so that neighbours can be joined, or not.
          p.source_row = bands[b] + (Upto(2) == 0 ? Upto(50) : 7);
          p.source_col = parts[c] + (Upto(2) == 0 ? Upto(9) : 0);
        }
        // Whole rows of both are said so.
        if (parts.size() == 2 && p.source_col == 0) p.cols = 0;
        output.pieces.push_back(p);
      }
    }
    return output;
  }

 private:
  std::mt19937 engine_;
};

TEST(CutPieces, EveryElementComesFromWhereItCame) {
  for (uint32_t seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const int64_t rows = 1 + random.Upto(12), cols = 1 + random.Upto(9);
    const OutputArray output = random.Output(rows, cols);
    const Map before = ElementsOf(output.pieces, cols);
    ASSERT_EQ(static_cast<int64_t>(before.size()), rows * cols);
    // A grid of parts, each an output of its own.
    const auto row_cuts = random.Cuts(rows, 3), col_cuts = random.Cuts(cols, 3);
    Map after;
    for (size_t r = 0; r + 1 < row_cuts.size(); ++r)
      for (size_t c = 0; c + 1 < col_cuts.size(); ++c) {
        Placed placed;
        placed.rows = {row_cuts[r], row_cuts[r + 1]};
        placed.cols = {col_cuts[c], col_cuts[c + 1]};
        placed.target_row = random.Upto(5);
        std::vector<Piece> pieces;
        CutPieces(output, placed, &pieces);
        JoinPieces(&pieces);
        for (const auto& [at, from] : ElementsOf(pieces, placed.cols.size()))
          EXPECT_TRUE(
              after
                  .emplace(std::pair(at.first - placed.target_row + placed.rows.begin, at.second + placed.cols.begin),
                           from)
                  .second);
      }
    EXPECT_EQ(after, before);
  }
}

// Several outputs stacked into one, as gate and up are, or heads.
TEST(CutPieces, WhatIsStackedIsJoinedWithoutAChange) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const int64_t cols = 1 + random.Upto(6);
    std::vector<Piece> pieces;
    Map expected;
    int64_t at = 0;
    for (int i = 0; i < 4; ++i) {
      const int64_t rows = 1 + random.Upto(6);
      const OutputArray output = random.Output(rows, cols);
      Placed placed;
      placed.rows.begin = random.Upto(rows - 1);
      placed.rows.end = placed.rows.begin + 1 + random.Upto(rows - 1 - placed.rows.begin);
      placed.cols = {0, cols};
      placed.target_row = at;
      CutPieces(output, placed, &pieces);
      for (const auto& [where, from] : ElementsOf(output.pieces, cols))
        if (where.first >= placed.rows.begin && where.first < placed.rows.end)
          expected[{at + where.first - placed.rows.begin, where.second}] = from;
      at += placed.rows.size();
    }
    std::shuffle(pieces.begin(), pieces.end(), std::mt19937(seed));
    const size_t before = pieces.size();
    JoinPieces(&pieces);
    EXPECT_LE(pieces.size(), before);
    EXPECT_TRUE(std::is_sorted(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) {
      return std::tie(a.target_row, a.target_col) < std::tie(b.target_row, b.target_col);
    }));
    EXPECT_EQ(ElementsOf(pieces, cols), expected);
  }
}

TEST(JoinPieces, JoinsWhatFollowsInSourceAndTargetAndNothingElse) {
  const auto joined = [](std::vector<Piece> pieces) {
    JoinPieces(&pieces);
    return pieces.size();
  };
  EXPECT_EQ(joined({}), 0u);
  EXPECT_EQ(joined({{0, 10, 0, 4}, {0, 14, 4, 4}, {0, 18, 8, 1}}), 1u);
  EXPECT_EQ(joined({{0, 14, 4, 4}, {0, 10, 0, 4}}), 1u) << "in any order";
  EXPECT_EQ(joined({{0, 10, 0, 4}, {0, 15, 4, 4}}), 2u) << "another source row";
  EXPECT_EQ(joined({{0, 10, 0, 4}, {1, 14, 4, 4}}), 2u) << "another source";
  EXPECT_EQ(joined({{0, 10, 0, 4}, {0, 14, 5, 4}}), 2u) << "a gap";
  EXPECT_EQ(joined({{0, 10, 0, 4, 1, 0, 3}, {0, 14, 4, 4, 2, 0, 3}}), 2u) << "another source column";
  EXPECT_EQ(joined({{0, 10, 0, 4, 0, 0, 3}, {0, 14, 4, 4, 0, 0, 2}}), 2u) << "another width";
  EXPECT_EQ(joined({{0, 10, 0, 4, 0, 1, 3}, {0, 14, 4, 4, 0, 0, 3}}), 2u) << "another column";
  EXPECT_EQ(joined({{kNone, 0, 0, 4}, {kNone, 0, 4, 4}}), 1u) << "padding";
  EXPECT_EQ(joined({{kNone, 0, 0, 4}, {0, 0, 4, 4}}), 2u) << "padding before rows";
}

TEST(CutPieces, WholeRowsStayWholeRows) {
  OutputArray output;
  output.shape = {10, 6};
  output.pieces = {{3, 100, 0, 10}};
  std::vector<Piece> pieces;
  CutPieces(output, {{2, 5}, {0, 6}, 40, 0}, &pieces);
  ASSERT_EQ(pieces.size(), 1u);
  EXPECT_EQ(pieces[0].cols, 0);
  EXPECT_EQ(pieces[0].source_row, 102);
  EXPECT_EQ(pieces[0].target_row, 40);
  pieces.clear();
  CutPieces(output, {{2, 5}, {2, 6}, 0, 0}, &pieces);
  ASSERT_EQ(pieces.size(), 1u);
  EXPECT_EQ(pieces[0].cols, 4);
  EXPECT_EQ(pieces[0].source_col, 2);
  EXPECT_EQ(pieces[0].target_col, 0);
}

TEST(CutPieces, VectorsAreOneRow) {
  OutputArray output;
  output.shape = {8};
  output.pieces = {{0, 0, 0, 1}};
  std::vector<Piece> pieces;
  CutPieces(output, {{0, 1}, {0, 8}, 0, 0}, &pieces);
  ASSERT_EQ(pieces.size(), 1u);
  EXPECT_EQ(pieces[0].rows, 1);
  EXPECT_EQ(pieces[0].cols, 0);
}

TEST(CutPieces, RowsBehindTheLastPieceArePadding) {
  std::vector<Piece> pieces;
  PadRows(0, &pieces);
  EXPECT_TRUE(pieces.empty());
  PadRows(2, &pieces);
  PadRows(2, &pieces);
  PadRows(5, &pieces);
  ASSERT_EQ(pieces.size(), 2u);
  EXPECT_EQ(pieces[1].source, kNone);
  EXPECT_EQ(pieces[1].target_row, 2);
  EXPECT_EQ(pieces[1].rows, 3);
}

}  // namespace
}  // namespace mimo::cut_pieces_test
