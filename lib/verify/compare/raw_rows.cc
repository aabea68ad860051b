#include "lib/verify/compare/raw_rows.h"

#include <algorithm>
#include <cstring>

#include "lib/decode/row_bytes.h"
#include "lib/model/scale_values.h"

namespace mimo {
namespace {

// Where a rectangle of the target lies in a source: its first row and column there.
struct Side {
  const StepBuffer& buffer;
  const SourceArray& source;
  uint32_t index = 0;
  int64_t row = 0, col = 0;

  const std::byte* Row(int64_t r) const { return buffer.Row(index, row + r); }
};

// Code or value bytes of `rows` x `cols` elements.
bool SameCodes(const Side& a, const Side& b, int64_t rows, int64_t cols) {
  const Codec codec = a.source.codec;
  if (IsPacked(codec) && (a.col % 2 != 0 || b.col % 2 != 0 || cols % 2 != 0)) return false;
  const uint64_t bytes = ColumnBytes(codec, cols);
  const uint64_t a_stride = a.buffer.RowBytes(a.index), b_stride = b.buffer.RowBytes(b.index);
  const std::byte* x = a.Row(0) + ColumnBytes(codec, a.col);
  const std::byte* y = b.Row(0) + ColumnBytes(codec, b.col);
  if (a_stride == bytes && b_stride == bytes) return std::memcmp(x, y, Rows(rows, bytes)) == 0;
  for (int64_t r = 0; r < rows; ++r)
    if (std::memcmp(x + Rows(r, a_stride), y + Rows(r, b_stride), bytes) != 0) return false;
  return true;
}

float GlobalOf(const Side& side) {
  if (side.source.global == kNone) return 1;
  float value = 0;
  std::memcpy(&value, side.buffer.Row(side.source.global, 0), sizeof value);
  return value;
}

// Scales of groups of columns, a byte each.
bool SameGroups(const Side& a, const Side& b, int64_t rows, int64_t cols) {
  const int64_t group = kernels::GroupOf(a.source.codec);
  if (a.col % group != 0 || b.col % group != 0 || cols % group != 0) return false;
  if (a.source.global_divides != b.source.global_divides || GlobalOf(a) != GlobalOf(b)) return false;
  const auto bytes = static_cast<size_t>(cols / group);
  for (int64_t r = 0; r < rows; ++r)
    if (std::memcmp(a.buffer.Row(a.source.scale, a.row + r) + a.col / group,
                    b.buffer.Row(b.source.scale, b.row + r) + b.col / group, bytes) != 0)
      return false;
  return true;
}

float ScaleAt(const Side& side, const SourceBand& band, int64_t col) {
  const uint64_t element = BitsPerElement(side.source.scale_type) / 8;
  const std::byte* stored = side.source.scales_in_a_row ? side.buffer.Row(band.scale, 0) + Rows(band.scale_row, element)
                                                        : side.buffer.Row(band.scale, band.scale_row) +
                                                              Rows(col / side.source.block_cols, element);
  return WidenScale(side.source.scale_type, stored);
}

bool SameBits(float a, float b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

// One row of scales of each.
bool SameScaleRows(const Side& a, const SourceBand& band_a, const Side& b, const SourceBand& band_b, int64_t cols) {
  for (int64_t col = 0; col < cols;) {
    const int64_t in_a = a.col + col, in_b = b.col + col;
    if (!SameBits(ScaleAt(a, band_a, in_a), ScaleAt(b, band_b, in_b))) return false;
    col += std::min(a.source.block_cols - in_a % a.source.block_cols, b.source.block_cols - in_b % b.source.block_cols);
  }
  return true;
}

// Scales of blocks, whose grids need not be the same.
bool SameBlocks(const Side& a, const Side& b, int64_t rows, int64_t cols) {
  const std::vector<SourceBand> of_a = BandsOf(a.source, a.row, rows), of_b = BandsOf(b.source, b.row, rows);
  for (size_t i = 0, j = 0; i < of_a.size() && j < of_b.size();) {
    if (!SameScaleRows(a, of_a[i], b, of_b[j], cols)) return false;
    const int64_t end_a = of_a[i].row_end - a.row, end_b = of_b[j].row_end - b.row;
    if (end_a <= end_b) ++i;
    if (end_b <= end_a) ++j;
  }
  return true;
}

bool SameRectangle(const Side& a, const Side& b, int64_t rows, int64_t cols) {
  if (a.source.codec != b.source.codec || a.source.quantized != b.source.quantized) return false;
  if (!SameCodes(a, b, rows, cols)) return false;
  if (!a.source.quantized) return true;
  return kernels::HasBlockScales(a.source.codec) ? SameBlocks(a, b, rows, cols) : SameGroups(a, b, rows, cols);
}

}  // namespace

bool SameAsStored(const RowsInMemory& a, const RowsInMemory& b, int64_t row, int64_t rows) {
  for (const RowsInMemory* side : {&a, &b}) {
    const OutputArray& array = side->rows.array();
    const bool moved = array.transform == Transform::kMove || array.transform == Transform::kConvert;
    if (!moved || array.adjust != Adjust::kAsIs || !side->rows.has_values()) return false;
  }
  const int64_t width = a.rows.cols();
  for (const Piece& piece_a : a.pieces) {
    const Piece x = ValueRows::Cut(piece_a, row, rows);
    if (x.rows <= 0) continue;
    if (x.source == kNone) return false;
    for (const Piece& piece_b : b.pieces) {
      const Piece y = ValueRows::Cut(piece_b, x.target_row, x.rows);
      if (y.rows <= 0) continue;
      const int64_t x_cols = x.cols == 0 ? width : x.cols, y_cols = y.cols == 0 ? width : y.cols;
      const int64_t begin = std::max(x.target_col, y.target_col);
      const int64_t end = std::min(x.target_col + x_cols, y.target_col + y_cols);
      if (begin >= end) continue;
      if (y.source == kNone) return false;
      const Side of_a{a.buffer, a.buffer.sources()[x.source], x.source, x.source_row + y.target_row - x.target_row,
                      x.source_col + begin - x.target_col};
      const Side of_b{b.buffer, b.buffer.sources()[y.source], y.source, y.source_row,
                      y.source_col + begin - y.target_col};
      if (!SameRectangle(of_a, of_b, y.rows, end - begin)) return false;
    }
  }
  return true;
}

}  // namespace mimo
