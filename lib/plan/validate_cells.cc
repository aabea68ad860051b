// Outputs that are not made of pieces: cells of a new block grid.
#include <algorithm>
#include <cmath>
#include <utility>

#include "lib/base/checked.h"
#include "lib/plan/reads.h"
#include "lib/plan/validate_parts.h"

namespace mimo::plan_check {
namespace {

// Values that become codes.
Status CheckValues(const Subject& subject, const CellSegment& s, const OutputArray& codes, const OutputArray& scales) {
  const SourceArray& from = subject.plan.sources[s.source];
  const StoredArray& source = subject.ArrayOf(s.source);
  if (from.quantized || !IsValueCodec(from.codec) || source.dtype != DTypeOf(from.codec) || source.shape.size() < 2 ||
      Columns(source.shape) != Columns(codes.shape))
    return Bad("source of a cell").Tensor(source.name).Expected("values of equal width").Found("another");
  if (!Within(s.source_row, s.rows, source.rows()))
    return Bad("rows of a cell").Tensor(codes.name).Expected("rows of " + source.name).Found(s.source_row);
  if (s.scale_row != 0 || s.factor != 1)
    return Bad("cell of values").Tensor(codes.name).Expected("no scale row or factor").Found("one");
  if (Columns(scales.shape) != CeilDiv(Columns(codes.shape), from.block_cols))
    return Bad("columns of scales")
        .Tensor(scales.name)
        .Expected(CeilDiv(Columns(codes.shape), from.block_cols))
        .Found(Columns(scales.shape));
  return {};
}

// Scales that blocks may keep.
Status CheckKept(const Subject& subject, const CellRow& cell, bool values, const OutputArray& scales) {
  if (cell.keep == kNone) {
    if (cell.keep_row == 0) return {};
    return Bad("kept scales").Tensor(scales.name).Expected("no row without them").Found("one");
  }
  if (!values) return Bad("kept scales").Tensor(scales.name).Expected("cells of values").Found("of codes");
  if (!subject.IsSource(cell.keep))
    return Bad("kept scales").Tensor(scales.name).Expected("a source of the plan").Found("another");
  const StoredArray& keep = subject.ArrayOf(cell.keep);
  if (keep.dtype != DType::kF32 || keep.shape.size() < 2 || Columns(keep.shape) != Columns(scales.shape))
    return Bad("kept scales")
        .Tensor(keep.name)
        .Expected("F32 rows like those of " + scales.name)
        .Found("another shape or dtype");
  if (!Within(cell.keep_row, 1, keep.rows()))
    return Bad("row of kept scales").Tensor(keep.name).Expected(keep.rows()).Found(cell.keep_row);
  return {};
}

Status CheckSegment(const Subject& subject, const CellSegment& s, uint32_t group, const OutputArray& scales) {
  if (!subject.IsOutput(s.output, group, Transform::kRelayout)) {
    return Bad("cell").Tensor(scales.name).Expected("codes of this group").Found("another output");
  }
  const OutputArray& codes = subject.plan.outputs[s.output];
  if (s.rows <= 0 || !Within(s.target_row, s.rows, codes.rows()))
    return Bad("rows of a cell").Tensor(codes.name).Expected("rows of its target").Found(s.target_row);
  if (s.source == kNone) {
    if (s.source_row != 0 || s.scale != kNone || s.scale_row != 0 || s.factor != 1)
      return Bad("padding of a cell").Tensor(codes.name).Expected("no source, scale or factor").Found("one");
    return {};
  }
  if (!subject.IsSource(s.source))
    return Bad("cell").Tensor(codes.name).Expected("codes from a source").Found("another");
  if (s.scale == kNone) return CheckValues(subject, s, codes, scales);
  const StoredArray& source = subject.ArrayOf(s.source);
  const int64_t columns = Columns(codes.shape);
  const bool bytes = source.dtype == DType::kU8 && codes.dtype == DType::kF8E4M3;
  if ((source.dtype != codes.dtype && !bytes) || source.shape.size() < 2 || Columns(source.shape) != columns) {
    return Bad("source of a cell").Tensor(source.name).Expected("FP8 codes of equal width").Found("another");
  }
  if (!Within(s.source_row, s.rows, source.rows()))
    return Bad("rows of a cell").Tensor(codes.name).Expected("rows of " + source.name).Found(s.source_row);
  if (s.scale_row < 0) return Bad("scale row of a cell").Tensor(codes.name).Expected(0).Found(s.scale_row);
  if (!std::isfinite(s.factor) || s.factor <= 0)
    return Bad("factor of a cell").Tensor(codes.name).Expected("a positive one").Found(std::to_string(s.factor));
  const SourceArray& from = subject.plan.sources[s.source];
  if (from.scales_in_a_row)
    return Bad("scales of a cell").Tensor(source.name).Expected("a matrix").Found("scales in a row");
  MIMO_RETURN_IF_ERROR(CheckScales(subject, from, s.scale, s.scale_row));
  const StoredArray& scale = subject.ArrayOf(s.scale);
  if (s.scale_row >= scale.rows())
    return Bad("scale row of a cell").Tensor(codes.name).Expected(scale.rows() - 1).Found(s.scale_row);
  if (Columns(scales.shape) != Columns(scale.shape))
    return Bad("columns of scales").Tensor(scales.name).Expected(Columns(scale.shape)).Found(Columns(scales.shape));
  return {};
}

}  // namespace

// Cells cover every row of the group's scales and, by their segments, every row of its codes, once.
Status CheckCells(const Subject& subject, uint32_t g) {
  const Plan& plan = subject.plan;
  const FuseGroup& group = plan.groups[g];
  std::vector<std::pair<uint32_t, std::pair<int64_t, int64_t>>> rows;  // (output, [begin, end))
  for (const CellRow& cell : group.cells) {
    if (!subject.IsOutput(cell.scale_output, g, Transform::kScales) || cell.segments.empty()) {
      return Bad("cells of " + group.label)
          .Expected("scales of this group with segments")
          .Found("another output or none");
    }
    const OutputArray& scales = plan.outputs[cell.scale_output];
    if (!Within(cell.scale_row, 1, scales.rows()))
      return Bad("scale row").Tensor(scales.name).Expected(scales.rows()).Found(cell.scale_row);
    rows.push_back({cell.scale_output, {cell.scale_row, cell.scale_row + 1}});
    const CellSegment* first = nullptr;
    for (const CellSegment& s : cell.segments) {
      MIMO_RETURN_IF_ERROR(CheckSegment(subject, s, g, scales));
      rows.push_back({s.output, {s.target_row, s.target_row + s.rows}});
      if (s.source == kNone) continue;
      if (first == nullptr) first = &s;
      const DType type = s.scale == kNone ? DType::kF32 : plan.sources[s.source].scale_type;
      if (scales.dtype != DType::kF32 && (scales.dtype != type || !cell.moved || s.factor != 1))
        return Bad("scales of a cell")
            .Tensor(scales.name)
            .Expected("F32, or those of the source as they are")
            .Found(std::string(DTypeName(scales.dtype)));
      if (plan.sources[s.source].block_cols != plan.sources[first->source].block_cols)
        return Bad("cell").Tensor(scales.name).Expected("blocks of one width").Found("several");
      const bool values = s.scale == kNone;
      if (values != (first->scale == kNone))
        return Bad("cell").Tensor(scales.name).Expected("all values or all codes").Found("both");
      if (cell.moved && values) return Bad("moved cell").Tensor(scales.name).Expected("codes").Found("values");
      if (cell.moved && (s.scale != first->scale || s.scale_row != first->scale_row || s.factor != first->factor))
        return Bad("moved cell").Tensor(scales.name).Expected("one source scale row and factor").Found("several");
    }
    MIMO_RETURN_IF_ERROR(CheckKept(subject, cell, first != nullptr && first->scale == kNone, scales));
  }
  std::sort(rows.begin(), rows.end());
  size_t at = 0;
  for (uint32_t i : group.outputs) {
    const OutputArray& output = plan.outputs[i];
    if (!subject.IsOutput(i, g, Transform::kScales) && !subject.IsOutput(i, g, Transform::kRelayout)) continue;
    int64_t next = 0;
    for (; at < rows.size() && rows[at].first == i; ++at) {
      if (rows[at].second.first != next)
        return Bad("rows of cells").Tensor(output.name).Expected(next).Found(rows[at].second.first);
      next = rows[at].second.second;
    }
    if (next != output.rows()) return Bad("rows of cells").Tensor(output.name).Expected(output.rows()).Found(next);
  }
  return {};
}

}  // namespace mimo::plan_check
