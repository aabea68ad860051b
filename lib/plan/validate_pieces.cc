// Pieces of an output: rectangles of sources that fit, and that cover every element of the output once.
#include <algorithm>
#include <iterator>
#include <map>
#include <tuple>

#include "lib/plan/reads.h"
#include "lib/plan/validate_parts.h"

namespace mimo::plan_check {
namespace {

// How far down every column is covered. Rectangles that come by (row, column) tile a matrix if and only if each stands
// level on those before it, and the last leave it level.
class Skyline {
 public:
  explicit Skyline(int64_t columns) : columns_(columns), height_{{0, 0}} {}

  // Whether columns [begin, begin + count), within the matrix, are covered down to `row` exactly; covers `rows` more.
  bool Add(int64_t row, int64_t rows, int64_t begin, int64_t count) {
    const auto first = Cut(begin);
    const auto last = begin + count < columns_ ? Cut(begin + count) : height_.end();
    for (auto it = first; it != last; ++it) {
      if (it->second != row) return false;
    }
    height_.erase(std::next(first), last);
    first->second = row + rows;
    if (last != height_.end() && last->second == first->second) height_.erase(last);
    if (first != height_.begin() && std::prev(first)->second == first->second) height_.erase(first);
    return true;
  }
  bool Level(int64_t rows) const { return height_.size() == 1 && height_.begin()->second == rows; }

 private:
  // The stretch that begins at `column`.
  std::map<int64_t, int64_t>::iterator Cut(int64_t column) {
    const auto after = height_.upper_bound(column);
    const auto at = std::prev(after);
    return at->first == column ? at : height_.emplace_hint(after, column, at->second);
  }

  const int64_t columns_;
  std::map<int64_t, int64_t> height_;  // by first column of a stretch
};

bool Matches(Codec codec, DType dtype) {
  return ValueCodecOf(dtype) == codec;
}

// Columns at which a decoded rectangle may begin.
int64_t ColumnUnit(const SourceArray& source) {
  return source.quantized ? std::max<int64_t>(GroupOf(source.codec), 1) : 1;
}

class PieceChecker {
 public:
  PieceChecker(const Subject& subject, const OutputArray& output)
      : subject_(subject),
        output_(output),
        transposes_(output.transform == Transform::kTranspose),
        places_(transposes_ || output.transform == Transform::kMove || output.transform == Transform::kConvert ||
                output.transform == Transform::kEncode),
        rows_(output.rows()),
        columns_(Columns(output.shape) *
                 (output.transform == Transform::kEncode && IsPacked(output.target_codec) ? 2 : 1)) {}

  Status Check() const {
    Skyline skyline(std::max<int64_t>(columns_, 1));
    const Piece* before = nullptr;
    for (const Piece& piece : output_.pieces) {
      MIMO_RETURN_IF_ERROR(CheckTarget(piece));
      const bool later = before == nullptr || std::tie(before->target_row, before->target_col) <
                                                  std::tie(piece.target_row, piece.target_col);
      before = &piece;
      const int64_t count = std::max<int64_t>(piece.cols == 0 ? columns_ : piece.cols, 1);
      if (!later || !skyline.Add(piece.target_row, piece.rows, piece.target_col, count)) {
        return Bad("pieces")
            .Expected("each element once, by row and column")
            .Found("row " + std::to_string(piece.target_row) + ", column " + std::to_string(piece.target_col));
      }
      if (piece.source != kNone) MIMO_RETURN_IF_ERROR(CheckSourceOf(piece));
    }
    if (!skyline.Level(rows_)) return Bad("pieces").Expected("each element once").Found("elements without a piece");
    if (output_.transform == Transform::kInvert && output_.pieces.size() != 1)
      return Bad("inverted output").Expected("one F32 from one F32").Found("another");
    return {};
  }

 private:
  // About the output, unless it says otherwise.
  Error Bad(std::string what) const { return plan_check::Bad(std::move(what)).Tensor(output_.name); }

  Status CheckTarget(const Piece& piece) const {
    if (piece.rows <= 0 || !Within(piece.target_row, piece.rows, rows_))
      return Bad("rows of a piece").Expected("rows of the output").Found(piece.target_row);
    const bool whole = piece.cols == 0;
    if (whole ? transposes_ || piece.source_col != 0 || piece.target_col != 0
              : !places_ || piece.cols < 0 || !Within(piece.target_col, piece.cols, columns_))
      return Bad("columns of a piece").Expected("columns of the output").Found(piece.target_col);
    if (piece.source == kNone) {
      if (!places_ || piece.source_row != 0 || piece.source_col != 0)
        return Bad("padding").Expected("an output that is moved, converted, encoded or transposed").Found("another");
      return CheckBytes(piece);
    }
    return subject_.IsSource(piece.source) ? Status() : Bad("pieces").Expected("a source of the plan").Found("another");
  }

  // Elements of less than a byte are not taken apart.
  Status CheckBytes(const Piece& piece) const {
    const int64_t bits = BitsPerElement(output_.dtype);
    if (transposes_ && bits != 8 && bits != 16 && bits != 32)
      return Bad("transposed output")
          .Expected("elements of 1, 2 or 4 bytes")
          .Found(std::string(DTypeName(output_.dtype)));
    if (bits % 8 == 0) return {};
    if (piece.source_col * bits % 8 != 0 || piece.target_col * bits % 8 != 0 || piece.cols * bits % 8 != 0)
      return Bad("columns of a piece").Expected("whole bytes").Found(piece.target_col);
    return {};
  }

  Status CheckSourceOf(const Piece& piece) const {
    const SourceArray& source = subject_.plan.sources[piece.source];
    const StoredArray& array = subject_.ArrayOf(piece.source);
    const bool decodes = Decodes(output_, source);
    const int64_t values = decodes ? ValuesPerElement(source, array.dtype) : 1;
    const int64_t columns = Columns(array.shape) * values;
    const int64_t rows_read = transposes_ ? piece.cols : piece.rows;
    const int64_t columns_read = transposes_ ? piece.rows : piece.cols == 0 ? columns : piece.cols;
    if (!Within(piece.source_row, rows_read, array.rows()))
      return Bad("rows of a piece").Expected("rows of " + array.name).Found(piece.source_row);
    if (!Within(piece.source_col, columns_read, columns))
      return Bad("columns of a piece").Expected("columns of " + array.name).Found(piece.source_col);
    if (piece.cols == 0 && columns != columns_) return Bad("columns").Expected(columns_).Found(columns);
    if (output_.transform == Transform::kInvert) return CheckInverted(array);
    return decodes ? CheckDecoded(piece, source, array) : CheckMoved(piece, source, array);
  }

  Status CheckMoved(const Piece& piece, const SourceArray& source, const StoredArray& array) const {
    if (!SameCodes(array.dtype)) return Bad("dtype of a moved array").Expected(array.name).Found(output_.name);
    if (transposes_ && IsValueCodec(output_.target_codec) &&
        (!Matches(output_.target_codec, output_.dtype) || !Matches(source.codec, array.dtype)))
      return Bad("codec").Expected("that of the dtype").Found("another");
    if (piece.cols == 0 && array.row_bytes() != output_.row_bytes()) {
      return Bad("bytes of a row").Expected(output_.row_bytes()).Found(array.row_bytes());
    }
    return CheckBytes(piece);
  }

  // Whether elements of `stored` may be moved: FP8 codes that were stored as bytes get their own type back.
  bool SameCodes(DType stored) const {
    const bool codes = stored == DType::kU8 && output_.dtype == DType::kF8E4M3 && HoldsElements(output_.id.part);
    return stored == output_.dtype || (codes && output_.transform == Transform::kMove);
  }

  Status CheckInverted(const StoredArray& array) const {
    if (array.dtype != DType::kF32 || output_.dtype != DType::kF32 || array.bytes != 4 || rows_ != 1 || columns_ != 1)
      return Bad("inverted output").Expected("one F32 from one F32").Found("another");
    return {};
  }

  Status CheckDecoded(const Piece& piece, const SourceArray& source, const StoredArray& array) const {
    if (output_.transform != Transform::kEncode && !Matches(output_.target_codec, output_.dtype))
      return Bad("codec").Expected("that of the dtype").Found("another");
    if (!source.quantized && !Matches(source.codec, array.dtype))
      return Bad("codec").Tensor(array.name).Expected("that of the dtype").Found("another");
    if (piece.source_col % ColumnUnit(source) != 0)
      return Bad("columns of a piece")
          .Expected("the beginning of a block or group of " + array.name)
          .Found(piece.source_col);
    if (output_.adjust != Adjust::kAsIs && output_.adjust != Adjust::kScale)
      return Bad("adjusted codes").Expected("codes").Found("values");
    return {};
  }

  const Subject& subject_;
  const OutputArray& output_;
  const bool transposes_;
  const bool places_;  // its pieces may be rectangles, and padding
  const int64_t rows_;
  const int64_t columns_;
};

}  // namespace

Status CheckPieces(const Subject& subject, const OutputArray& output) {
  return PieceChecker(subject, output).Check();
}

}  // namespace mimo::plan_check
