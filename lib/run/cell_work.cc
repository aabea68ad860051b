// Cells of a new block grid of one step in memory: moved, re-quantized, or made from values.
#include <algorithm>
#include <cstring>
#include <vector>

#include "lib/run/adjust_rows.h"
#include "lib/run/row_bytes.h"
#include "lib/run/step_work.h"

namespace mimo {
namespace {

// null: only padding.
const CellSegment* FirstWithSource(const CellRow& cell) {
  for (const CellSegment& segment : cell.segments) {
    if (segment.source != kNone) return &segment;
  }
  return nullptr;
}

std::vector<const CellSegment*> WithSource(const CellRow& cell) {
  std::vector<const CellSegment*> segments;
  for (const CellSegment& segment : cell.segments) {
    if (segment.source != kNone) segments.push_back(&segment);
  }
  return segments;
}

float ScaleAt(const std::byte* row, uint64_t column, float factor) {
  float scale = 0;
  std::memcpy(&scale, row + column * sizeof scale, sizeof scale);
  return factor == 1 ? scale : scale * factor;
}

// Whether the row of scales is made in a buffer.
bool MakesScales(const CellRow& cell) {
  const CellSegment* first = FirstWithSource(cell);
  return !cell.moved || first == nullptr || first->factor != 1;
}

}  // namespace

void StepWork::AddCell(const CellRow& cell) {
  for (const CellSegment& segment : cell.segments) {
    if (segment.source != kNone) {
      AddRows(segment.source, segment.source_row, segment.rows);
      if (segment.scale != kNone) AddRows(segment.scale, segment.scale_row, 1);
    }
    if (!cell.moved || segment.source == kNone) AddOutput(segment.output, segment.target_row, segment.rows);
  }
  if (cell.keep != kNone) AddRows(cell.keep, cell.keep_row, 1);
  if (MakesScales(cell)) AddOutput(cell.scale_output, cell.scale_row, 1);
}

void StepWork::MakeCellRow(std::byte* buffer, const CellJob& job, StepResult* result) const {
  const CellRow& cell = job_.plan.groups[job.group].cells[job.cell];
  for (const CellSegment& segment : cell.segments) {
    if (segment.source != kNone) continue;
    const uint64_t bytes = job_.plan.outputs[segment.output].row_bytes();
    std::byte* out = OutputRow(buffer, segment.output, segment.target_row);
    Fill({out, static_cast<uint64_t>(segment.rows), bytes, bytes}, "");
    Emit(segment.output, segment.target_row, segment.rows, out, kNone, {}, result);
  }
  BlockCounts counts;
  const CellSegment* first = FirstWithSource(cell);
  if (cell.moved || first == nullptr) {
    MoveCell(buffer, cell, &counts, result);
  } else if (first->scale == kNone) {
    MakeValueCell(buffer, cell, &counts, result);
  } else {
    MakeCell(buffer, cell, &counts, result);
  }
  result->cells.push_back({job, counts});
}

void StepWork::MoveCell(std::byte* buffer, const CellRow& cell, BlockCounts* counts, StepResult* result) const {
  for (const CellSegment& segment : cell.segments) {
    if (segment.source == kNone) continue;
    Emit(segment.output, segment.target_row, segment.rows, SourceRow(buffer, segment.source, segment.source_row),
         segment.source, {}, result);
  }
  const CellSegment* first = FirstWithSource(cell);
  const uint64_t bytes = job_.plan.outputs[cell.scale_output].row_bytes();
  const std::byte* scales = first == nullptr ? nullptr : SourceRow(buffer, first->scale, first->scale_row);
  if (MakesScales(cell)) {
    std::byte* made = OutputRow(buffer, cell.scale_output, cell.scale_row);
    for (uint64_t b = 0; b < bytes / sizeof(float); ++b) {
      const float scale = first == nullptr ? 1.0f : ScaleAt(scales, b, first->factor);
      std::memcpy(made + b * sizeof scale, &scale, sizeof scale);
    }
    scales = made;
  }
  kernels::Anomalies anomalies;
  anomalies.bad_scales = BadScales(scales, bytes);
  counts->moved_blocks = bytes / sizeof(float);
  Emit(cell.scale_output, cell.scale_row, 1, scales, first == nullptr ? kNone : first->scale, anomalies, result);
}

void StepWork::EmitMade(std::byte* buffer, const CellRow& cell, uint32_t scale_source,
                        const kernels::Anomalies& anomalies, StepResult* result) const {
  bool first = true;
  for (const CellSegment* segment : WithSource(cell)) {
    Emit(segment->output, segment->target_row, segment->rows, OutputRow(buffer, segment->output, segment->target_row),
         segment->source, first ? anomalies : kernels::Anomalies(), result);
    first = false;
  }
  Emit(cell.scale_output, cell.scale_row, 1, OutputRow(buffer, cell.scale_output, cell.scale_row), scale_source, {},
       result);
}

void StepWork::MakeCell(std::byte* buffer, const CellRow& cell, BlockCounts* counts, StepResult* result) const {
  const std::vector<const CellSegment*> segments = WithSource(cell);
  const uint64_t columns = job_.array(segments[0]->source).row_bytes();
  const auto block = static_cast<uint64_t>(job_.plan.sources[segments[0]->source].block_cols);
  std::byte* scales = OutputRow(buffer, cell.scale_output, cell.scale_row);
  const uint64_t blocks = job_.plan.outputs[cell.scale_output].row_bytes() / sizeof(float);
  kernels::Anomalies anomalies;
  std::vector<kernels::CellPart> parts(segments.size());
  for (uint64_t b = 0; b < blocks; ++b) {
    for (size_t i = 0; i < parts.size(); ++i) {
      const CellSegment& segment = *segments[i];
      parts[i].codes =
          reinterpret_cast<const uint8_t*>(SourceRow(buffer, segment.source, segment.source_row)) + b * block;
      parts[i].code_row_bytes = columns;
      parts[i].scale = ScaleAt(SourceRow(buffer, segment.scale, segment.scale_row), b, segment.factor);
      parts[i].out = reinterpret_cast<uint8_t*>(OutputRow(buffer, segment.output, segment.target_row)) + b * block;
      parts[i].out_row_bytes = columns;
      parts[i].rows = static_cast<uint64_t>(segment.rows);
    }
    const uint64_t width = std::min(block, columns - b * block);
    const kernels::CellResult made = kernels::RequantizeCell(parts, width, job_.plan.options.fresh_scales);
    std::memcpy(scales + b * sizeof(float), &made.scale, sizeof(float));
    anomalies += made.anomalies;
    if (made.moved) {
      ++counts->equal_scale_blocks;
      continue;
    }
    ++counts->requantized_blocks;
    counts->squared_error += made.squared_error;
    counts->squared_sum += made.squared_sum;
    counts->max_error = std::max(counts->max_error, static_cast<double>(made.max_error));
  }
  EmitMade(buffer, cell, segments[0]->scale, anomalies, result);
}

void StepWork::MakeValueCell(std::byte* buffer, const CellRow& cell, BlockCounts* counts, StepResult* result) const {
  const std::vector<const CellSegment*> segments = WithSource(cell);
  const uint64_t columns = job_.plan.outputs[segments[0]->output].row_bytes();  // of codes
  const auto block = static_cast<uint64_t>(job_.plan.sources[segments[0]->source].block_cols);
  std::byte* scales = OutputRow(buffer, cell.scale_output, cell.scale_row);
  const std::byte* keep = cell.keep == kNone ? nullptr : SourceRow(buffer, cell.keep, cell.keep_row);
  const uint64_t blocks = job_.plan.outputs[cell.scale_output].row_bytes() / sizeof(float);
  kernels::Anomalies anomalies;
  std::vector<kernels::ValuePart> parts(segments.size());
  for (uint64_t b = 0; b < blocks; ++b) {
    for (size_t i = 0; i < parts.size(); ++i) {
      const CellSegment& segment = *segments[i];
      parts[i].codec = job_.plan.sources[segment.source].codec;
      parts[i].data = SourceRow(buffer, segment.source, segment.source_row) +
                      ValueBytes(parts[i].codec, static_cast<int64_t>(b * block));
      parts[i].row_bytes = job_.array(segment.source).row_bytes();
      parts[i].out = reinterpret_cast<uint8_t*>(OutputRow(buffer, segment.output, segment.target_row)) + b * block;
      parts[i].out_row_bytes = columns;
      parts[i].rows = static_cast<uint64_t>(segment.rows);
    }
    const float old = keep == nullptr ? 0 : ScaleAt(keep, b, 1);
    const uint64_t width = std::min(block, columns - b * block);
    const kernels::ValueCellResult made = kernels::EncodeValueCell(parts, width, keep == nullptr ? nullptr : &old);
    std::memcpy(scales + b * sizeof(float), &made.scale, sizeof(float));
    anomalies += made.anomalies;
    ++(made.kept ? counts->kept_blocks : counts->fresh_blocks);
    counts->squared_error += made.squared_error;
    counts->squared_sum += made.squared_sum;
    counts->max_error = std::max(counts->max_error, static_cast<double>(made.max_error));
  }
  EmitMade(buffer, cell, segments[0]->source, anomalies, result);
}

}  // namespace mimo
