// Outputs that are made by encoded weights: their codes, and what is made beside them.
#include <algorithm>
#include <optional>
#include <utility>

#include "lib/base/checked.h"
#include "lib/plan/reads.h"
#include "lib/plan/validate_parts.h"

namespace mimo::plan_check {
namespace {

// Part of an output: its rows, or the elements of one that holds scalars.
struct Part {
  uint32_t output = 0;
  int64_t begin = 0;
  int64_t end = 0;
  int64_t limit = 0;  // how many there are
};

class EncodedChecker {
 public:
  EncodedChecker(const Subject& subject, uint32_t group)
      : subject_(subject), plan_(subject.plan), number_(group), group_(subject.plan.groups[group]) {}

  // Every kEncode and kBeside output of the group is made of encoded weights, each of its rows once, in the shapes that
  // these make.
  Status Check() {
    for (const EncodedWeight& e : group_.encoded) {
      if (!subject_.IsOutput(e.codes, number_, Transform::kEncode) ||
          !subject_.IsOutput(e.scales, number_, Transform::kBeside))
        return Bad("encoded weight of " + group_.label).Expected("codes and scales of this group").Found("others");
      MIMO_RETURN_IF_ERROR(CheckEncoding(e));
      MIMO_RETURN_IF_ERROR(CheckRows(e));
      MIMO_RETURN_IF_ERROR(CheckKept(e));
      MIMO_RETURN_IF_ERROR(CheckScalars(e));
    }
    return CheckTiled();
  }

 private:
  const OutputArray& Codes(const EncodedWeight& e) const { return plan_.outputs[e.codes]; }
  const OutputArray& Scales(const EncodedWeight& e) const { return plan_.outputs[e.scales]; }
  static bool HasCells(const EncodedWeight& e) { return HasBlockScales(e.encoding.codec); }

  Status CheckEncoding(const EncodedWeight& e) const {
    const kernels::Encoding& encoding = e.encoding;
    if (!ScaleTypeOf(encoding.codec) || Codes(e).target_codec != encoding.codec || Codes(e).shape.size() < 2 ||
        Scales(e).shape.size() < 2)
      return Bad("encoded weight").Tensor(Codes(e).name).Expected("matrices of its codec").Found("others");
    if (encoding.block_rows == 0 || encoding.block_cols == 0 || encoding.block_rows > 1u << 20 ||
        (HasCells(e) && encoding.block_cols % 32 != 0))
      return Bad("block of an encoding")
          .Tensor(Codes(e).name)
          .Expected("rows, and columns that are a multiple of 32")
          .Found("another");
    return {};
  }

  Status CheckRows(const EncodedWeight& e) {
    const OutputArray& codes = Codes(e);
    const OutputArray& scales = Scales(e);
    const int64_t columns = Columns(codes.shape) * (IsPacked(e.encoding.codec) ? 2 : 1);
    const int64_t column_group = kernels::GroupColumns(e.encoding);
    if (e.rows < 0 || (e.rows == 0 && e.row != 0) || !Within(e.row, e.RowsIn(codes), codes.rows()))
      return Bad("rows of an encoded weight").Tensor(codes.name).Expected(codes.rows()).Found(e.row);
    const int64_t rows = e.RowsIn(codes);
    if (e.period < 0 || (e.period > 0 && (!HasCells(e) || rows % e.period != 0)))
      return Bad("period of an encoded weight").Tensor(codes.name).Expected("a divisor of its rows").Found(e.period);
    const int64_t scale_rows = HasCells(e) ? BlockRowsOf(rows, e) : rows;
    const bool narrow = HasCells(e) && scales.dtype == DType::kBF16;
    if (BitsPerElement(codes.dtype) != 8 ||
        (!narrow && BitsPerElement(scales.dtype) != BitsPerElement(*ScaleTypeOf(e.encoding.codec))) ||
        (!HasCells(e) && columns % column_group != 0) || !Within(e.scale_row, scale_rows, scales.rows()) ||
        Columns(scales.shape) != CeilDiv(columns, column_group))
      return Bad("scales of an encoded weight")
          .Tensor(scales.name)
          .Expected("those of its codes")
          .Found("another shape or dtype");
    for (const Piece& piece : PiecesOf(e, codes))
      if (piece.target_row + piece.rows > e.row + rows)
        return Bad("pieces of an encoded weight").Tensor(codes.name).Expected("its rows").Found(piece.target_row);
    parts_.push_back({e.codes, e.row, e.row + rows, codes.rows()});
    parts_.push_back({e.scales, e.scale_row, e.scale_row + scale_rows, scales.rows()});
    return {};
  }

  Status CheckKept(const EncodedWeight& e) const {
    if (e.keep == kNone) return {};
    if (!subject_.IsSource(e.keep))
      return Bad("kept scales").Tensor(Codes(e).name).Expected("a source of the plan").Found("another");
    const StoredArray& keep = subject_.ArrayOf(e.keep);
    const bool bytes = keep.dtype == DType::kU8 || keep.dtype == DType::kF8E8M0;
    const bool fits = HasCells(e) ? keep.dtype == Scales(e).dtype : e.encoding.codec == Codec::kMxfp4 && bytes;
    if (fits && e.rows == 0 && keep.shape == Scales(e).shape) return {};
    return Bad("kept scales")
        .Tensor(keep.name)
        .Expected("those of block FP8 or MXFP4, shaped like " + Scales(e).name)
        .Found("another shape or dtype");
  }

  Status CheckScalars(const EncodedWeight& e) {
    if (HasGlobal(e.encoding.codec) != (e.global != kNone))
      return Bad("global scale").Tensor(Codes(e).name).Expected("one where the codec has one").Found("another");
    for (const uint32_t scalar : {e.global, e.input}) {
      if (scalar == kNone) continue;
      if (!subject_.IsOutput(scalar, number_, Transform::kBeside) || plan_.outputs[scalar].dtype != DType::kF32 ||
          e.scalars < 1 || !Within(e.scalar, e.scalars, ElementsOf(scalar)))
        return Bad("scalar of an encoded weight").Tensor(Codes(e).name).Expected("one F32").Found("another");
      parts_.push_back({scalar, e.scalar, e.scalar + e.scalars, ElementsOf(scalar)});
    }
    return {};
  }

  int64_t ElementsOf(uint32_t output) const {
    return plan_.outputs[output].rows() * Columns(plan_.outputs[output].shape);
  }

  Status CheckTiled() {
    std::sort(parts_.begin(), parts_.end(),
              [](const Part& a, const Part& b) { return std::pair(a.output, a.begin) < std::pair(b.output, b.begin); });
    auto at = parts_.cbegin();
    bool tiled = true;
    for (const uint32_t i : group_.outputs) {
      const OutputArray& output = plan_.outputs[i];
      if (output.transform != Transform::kEncode && output.transform != Transform::kBeside) continue;
      int64_t next = 0, limit = -1;
      for (; at != parts_.cend() && at->output == i; ++at) {
        tiled &= at->begin == next;
        next = at->end;
        limit = at->limit;
      }
      tiled &= next == limit;
    }
    if (!tiled || at != parts_.cend())
      return Bad("encoded weights of " + group_.label).Expected("each output once").Found("another count");
    return {};
  }

  const Subject& subject_;
  const Plan& plan_;
  const uint32_t number_;
  const FuseGroup& group_;
  std::vector<Part> parts_;
};

}  // namespace

Status CheckEncoded(const Subject& subject, uint32_t group) {
  return EncodedChecker(subject, group).Check();
}

}  // namespace mimo::plan_check
