#include "lib/draft/cut_pieces.h"

#include <algorithm>
#include <tuple>

#include "lib/decode/row_bytes.h"

namespace mimo {

void CutPieces(const OutputArray& output, const Placed& placed, std::vector<Piece>* pieces) {
  const int64_t cols = RowElements(output.shape);
  for (const Piece& piece : output.pieces) {
    const int64_t width = piece.cols == 0 ? cols : piece.cols;
    const int64_t row_begin = std::max(piece.target_row, placed.rows.begin);
    const int64_t row_end = std::min(piece.target_row + piece.rows, placed.rows.end);
    const int64_t col_begin = std::max(piece.target_col, placed.cols.begin);
    const int64_t col_end = std::min(piece.target_col + width, placed.cols.end);
    if (row_begin >= row_end || col_begin >= col_end) continue;
    Piece cut;
    cut.source = piece.source;
    cut.rows = row_end - row_begin;
    cut.cols = col_end - col_begin;
    cut.source_row = piece.source_row + row_begin - piece.target_row;
    cut.source_col = piece.source_col + col_begin - piece.target_col;
    cut.target_row = placed.target_row + row_begin - placed.rows.begin;
    cut.target_col = placed.target_col + col_begin - placed.cols.begin;
    if (piece.source == kNone) cut.source_row = cut.source_col = 0;
    if (piece.cols == 0 && cut.cols == cols) cut.cols = 0;  // whole rows of both
    pieces->push_back(cut);
  }
}

void SortPieces(std::vector<Piece>* pieces) {
  std::sort(pieces->begin(), pieces->end(), [](const Piece& a, const Piece& b) {
    return std::tie(a.target_row, a.target_col) < std::tie(b.target_row, b.target_col);
  });
}

void JoinPieces(std::vector<Piece>* pieces) {
  SortPieces(pieces);
  std::vector<Piece> joined;
  for (const Piece& piece : *pieces) {
    if (!joined.empty()) {
      Piece& last = joined.back();
      const bool follows = last.target_row + last.rows == piece.target_row &&
                           (last.source == kNone || last.source_row + last.rows == piece.source_row);
      if (follows && std::tie(last.source, last.source_col, last.target_col, last.cols) ==
                         std::tie(piece.source, piece.source_col, piece.target_col, piece.cols)) {
        last.rows += piece.rows;
        continue;
      }
    }
    joined.push_back(piece);
  }
  *pieces = std::move(joined);
}

void PadRows(int64_t rows, std::vector<Piece>* pieces) {
  const int64_t filled = pieces->empty() ? 0 : pieces->back().target_row + pieces->back().rows;
  if (filled < rows) pieces->push_back({kNone, 0, filled, rows - filled});
}

}  // namespace mimo
