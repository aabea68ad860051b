#include "lib/plan/operations.h"

#include <algorithm>

#include "lib/base/words.h"
#include "lib/decode/row_bytes.h"
#include "lib/plan/reads.h"

namespace mimo {
namespace {

constexpr std::pair<Transform, bool Operations::*> kByTransform[] = {
    {Transform::kMove, &Operations::moved},           {Transform::kRelayout, &Operations::moved},
    {Transform::kScales, &Operations::moved},         {Transform::kConvert, &Operations::converted},
    {Transform::kEncode, &Operations::encoded},       {Transform::kBeside, &Operations::encoded},
    {Transform::kTranspose, &Operations::transposed}, {Transform::kConstant, &Operations::constant},
    {Transform::kInvert, &Operations::adjusted},
};
static_assert(NamesEach(kByTransform));

class Classifier {
 public:
  Classifier(const Catalogue& catalogue, const Plan& plan)
      : catalogue_(catalogue), plan_(plan), read_(plan.sources.size(), 0), operations_(plan.outputs.size()) {}

  std::vector<Operations> Classify() {
    for (uint32_t i = 0; i < plan_.outputs.size(); ++i) ByTransform(i);
    for (const FuseGroup& group : plan_.groups)
      for (const CellRow& cell : group.cells) AddCell(cell);
    // A second pass: only now is it known what was read more than once.
    for (uint32_t i = 0; i < plan_.outputs.size(); ++i) {
      uint32_t first = kNone;
      for (const Piece& piece : plan_.outputs[i].pieces) Trace(i, piece.source, ElementsOf(i, piece), &first);
    }
    for (const FuseGroup& group : plan_.groups)
      for (const CellRow& cell : group.cells)
        for (const CellSegment& s : cell.segments) {
          uint32_t first = kNone;
          Trace(s.output, s.source, RowElements(s.source, s.rows), &first);
        }
    return std::move(operations_);
  }

 private:
  const StoredArray& ArrayOf(uint32_t source) const { return catalogue_.arrays[plan_.sources[source].array]; }
  static uint64_t Columns(const StoredArray& array) {
    return array.shape.empty() ? 1 : static_cast<uint64_t>(array.shape.back());
  }
  // Of the stored array, in its own elements: two values are one byte of packed codes.
  uint64_t Elements(uint32_t source) const {
    const StoredArray& array = ArrayOf(source);
    return static_cast<uint64_t>(array.rows()) * Columns(array);
  }
  uint64_t RowElements(uint32_t source, int64_t rows) const {
    return source == kNone ? 0 : static_cast<uint64_t>(rows) * Columns(ArrayOf(source));
  }
  uint64_t ElementsOf(uint32_t output, const Piece& piece) const {
    if (piece.source == kNone) return 0;
    if (piece.cols == 0) return RowElements(piece.source, piece.rows);
    const SourceArray& source = plan_.sources[piece.source];
    const bool values = plan_.outputs[output].transform == Transform::kConvert;
    const auto per = static_cast<uint64_t>(values ? ValuesPerElement(source, ArrayOf(piece.source).dtype) : 1);
    return static_cast<uint64_t>(piece.rows) * static_cast<uint64_t>(piece.cols) / per;
  }

  void ByTransform(uint32_t index) {
    const OutputArray& output = plan_.outputs[index];
    Operations& o = operations_[index];
    for (const auto& [transform, operation] : kByTransform) {
      if (transform == output.transform) o.*operation = true;
    }
    o.adjusted |= output.adjust != Adjust::kAsIs;
    for (const Piece& piece : output.pieces) {
      o.padded |= piece.source == kNone;
      if (piece.source != kNone) read_[piece.source] += ElementsOf(index, piece);
    }
  }

  void SetEncoded(uint32_t output) {
    operations_[output].moved = false;
    operations_[output].encoded = true;
  }

  void AddCell(const CellRow& cell) {
    const auto blocks = static_cast<uint64_t>(mimo::RowElements(plan_.outputs[cell.scale_output].shape));
    const bool values = IsFromValues(cell);
    const bool requantized = !cell.moved && !values;
    if (requantized) operations_[cell.scale_output].requantized_blocks += blocks;
    if (values) SetEncoded(cell.scale_output);
    uint32_t counted = kNone;  // once per array that holds codes of the cell
    for (const CellSegment& s : cell.segments) {
      Operations& o = operations_[s.output];
      o.padded |= s.source == kNone;
      o.adjusted |= s.factor != 1.0f;
      if (s.source != kNone) read_[s.source] += RowElements(s.source, s.rows);
      if (requantized && counted != s.output) o.requantized_blocks += blocks;
      if (values) SetEncoded(s.output);
      counted = s.output;
    }
  }

  void Trace(uint32_t output, uint32_t source, uint64_t elements, uint32_t* first) {
    if (source == kNone) return;
    Operations& o = operations_[output];
    o.split |= elements < Elements(source) && plan_.outputs[output].transform != Transform::kTranspose;
    o.replicated |= read_[source] > Elements(source);
    o.fused |= *first != kNone && *first != source;
    *first = source;
  }

  const Catalogue& catalogue_;
  const Plan& plan_;
  std::vector<uint64_t> read_;  // elements, by source
  std::vector<Operations> operations_;
};

}  // namespace

std::vector<Operations> OperationsOf(const Catalogue& catalogue, const Plan& plan) {
  return Classifier(catalogue, plan).Classify();
}

std::string OperationsText(const Operations& o) {
  std::string text;
  const auto add = [&](bool holds, const std::string& word) {
    if (holds) text += (text.empty() ? "" : ", ") + word;
  };
  add(o.moved, "moved");
  add(o.converted, "converted");
  add(o.encoded, "quantized");
  add(o.transposed, "transposed");
  add(o.constant, "constant");
  add(o.adjusted, "scaled");
  add(o.fused, "fused");
  add(o.split, "split");
  add(o.replicated, "replicated");
  add(o.padded, "padded");
  add(o.requantized_blocks > 0, std::to_string(o.requantized_blocks) + " blocks re-quantized");
  return text;
}

}  // namespace mimo
