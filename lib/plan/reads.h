// Which sources a source needs to be decoded: one rule, for everyone who follows a plan's reads.
#pragma once

#include <algorithm>
#include <span>

#include "lib/plan/plan.h"

namespace mimo {

// Calls visit(uint32_t) with `source` and with the sources of its scales and global. Padding reads nothing.
template <class Visit>
void VisitDecoded(const std::vector<SourceArray>& sources, uint32_t source, Visit visit) {
  if (source == kNone) return;
  const SourceArray& s = sources[source];
  visit(source);
  if (s.scale != kNone) visit(s.scale);
  if (s.global != kNone) visit(s.global);
  for (const SourceBand& band : s.bands) visit(band.scale);
}

// Values of one stored element of a source: two where a byte is two codes; F4 counts codes.
inline int64_t ValuesPerElement(const SourceArray& source, DType stored) {
  return source.quantized && IsPacked(source.codec) && stored != DType::kF4 ? 2 : 1;
}

// Whether pieces are decoded whatever their source is.
inline bool Decodes(Transform transform) {
  return transform == Transform::kConvert || transform == Transform::kEncode;
}

// Whether rows of `source` are decoded on their way into `output`, so that their scales are read too.
inline bool Decodes(const OutputArray& output, const SourceArray& source) {
  if (output.transform != Transform::kTranspose) return Decodes(output.transform);
  return IsValueCodec(output.target_codec) && (source.quantized || source.codec != output.target_codec);
}

// Calls visit(uint32_t) with every source that a piece of `output` reads.
template <class Visit>
void VisitPiece(const std::vector<SourceArray>& sources, const OutputArray& output, const Piece& piece, Visit visit) {
  if (piece.source == kNone) return;
  if (Decodes(output, sources[piece.source])) {
    VisitDecoded(sources, piece.source, visit);
  } else {
    visit(piece.source);
  }
}

// Calls visit(uint32_t) with every source that a row of cells reads; some more than once.
template <class Visit>
void VisitCell(const CellRow& cell, Visit visit) {
  if (cell.keep != kNone) visit(cell.keep);
  for (const CellSegment& segment : cell.segments) {
    if (segment.source != kNone) visit(segment.source);
    if (segment.scale != kNone) visit(segment.scale);
  }
}

// Whether a row of cells is made from values, not from codes under other scales.
inline bool IsFromValues(const CellRow& cell) {
  for (const CellSegment& segment : cell.segments)
    if (segment.source != kNone) return segment.scale == kNone;
  return false;
}

// The pieces of an encoded weight in its array of codes.
inline std::span<const Piece> PiecesOf(const EncodedWeight& weight, const OutputArray& codes) {
  const auto before = [](const Piece& piece, int64_t row) { return piece.target_row < row; };
  const auto begin = std::lower_bound(codes.pieces.begin(), codes.pieces.end(), weight.row, before);
  const auto end = std::lower_bound(begin, codes.pieces.end(), weight.row + weight.RowsIn(codes), before);
  return {begin, end};
}

// Calls visit(uint32_t) with every source that a group reads; some more than once.
template <class Visit>
void VisitGroupReads(const Plan& plan, const FuseGroup& group, Visit visit) {
  for (const uint32_t i : group.outputs) {
    for (const Piece& piece : plan.outputs[i].pieces) VisitPiece(plan.sources, plan.outputs[i], piece, visit);
    if (plan.outputs[i].keep != kNone) visit(plan.outputs[i].keep);
  }
  for (const CellRow& cell : group.cells) VisitCell(cell, visit);
  for (const EncodedWeight& weight : group.encoded) {
    if (weight.keep != kNone) visit(weight.keep);
  }
}

}  // namespace mimo
