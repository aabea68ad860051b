#include "lib/run/cell_work.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "lib/decode/row_bytes.h"
#include "lib/model/scale_values.h"
#include "lib/run/adjust_rows.h"

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

float ScaleAt(DType type, const std::byte* row, uint64_t column, float factor) {
  const float scale = WidenScale(type, row + column * (BitsPerElement(type) / 8));
  return factor == 1 ? scale : scale * factor;
}
DType ScaleType(const Job& job, const CellSegment& segment) {
  return job.plan.sources[segment.source].scale_type;
}

// Whether the row of scales is made in a buffer.
bool MakesScales(const Job& job, const CellRow& cell) {
  const CellSegment* first = FirstWithSource(cell);
  return !cell.moved || first == nullptr || first->factor != 1 ||
         ScaleType(job, *first) != job.plan.outputs[cell.scale_output].dtype;
}

void MoveCell(const StepBuffer& buffer, const CellRow& cell, BlockCounts* counts, StepResult* result) {
  const Job& job = buffer.job();
  for (const CellSegment& segment : cell.segments) {
    if (segment.source == kNone) continue;
    result->Emit(job, segment.output, segment.target_row, segment.rows, buffer.Row(segment.source, segment.source_row),
                 segment.source, {});
  }
  const CellSegment* first = FirstWithSource(cell);
  const OutputArray& output = job.plan.outputs[cell.scale_output];
  const uint64_t bytes = output.row_bytes(), element = BitsPerElement(output.dtype) / 8;
  const std::byte* scales = first == nullptr ? nullptr : buffer.Row(first->scale, first->scale_row);
  if (MakesScales(job, cell)) {
    std::byte* made = buffer.Output(cell.scale_output, cell.scale_row);
    if (first == nullptr) {
      FillElements({made, 1, bytes, bytes}, ScaleOfOne(output.dtype));
    } else {
      for (uint64_t b = 0; b < bytes / sizeof(float); ++b) {  // what is made is F32
        const float scale = ScaleAt(ScaleType(job, *first), scales, b, first->factor);
        std::memcpy(made + b * sizeof scale, &scale, sizeof scale);
      }
    }
    scales = made;
  }
  kernels::Anomalies anomalies;
  anomalies.bad_scales = BadScales(output.dtype, scales, bytes);
  counts->moved_blocks = bytes / element;
  result->Emit(job, cell.scale_output, cell.scale_row, 1, scales, first == nullptr ? kNone : first->scale, anomalies);
}

// Codes and scales that were made in the buffer; the anomalies are counted with the first segment.
void EmitMade(const StepBuffer& buffer, const CellRow& cell, uint32_t scale_source, const kernels::Anomalies& anomalies,
              StepResult* result) {
  const Job& job = buffer.job();
  bool first = true;
  for (const CellSegment* segment : WithSource(cell)) {
    result->Emit(job, segment->output, segment->target_row, segment->rows,
                 buffer.Output(segment->output, segment->target_row), segment->source,
                 first ? anomalies : kernels::Anomalies());
    first = false;
  }
  result->Emit(job, cell.scale_output, cell.scale_row, 1, buffer.Output(cell.scale_output, cell.scale_row),
               scale_source, {});
}

void RequantizeCells(const StepBuffer& buffer, const CellRow& cell, BlockCounts* counts, StepResult* result) {
  const Job& job = buffer.job();
  const std::vector<const CellSegment*> segments = WithSource(cell);
  const uint64_t columns = buffer.RowBytes(segments[0]->source);
  const auto block = static_cast<uint64_t>(job.plan.sources[segments[0]->source].block_cols);
  std::byte* scales = buffer.Output(cell.scale_output, cell.scale_row);
  const uint64_t blocks = job.plan.outputs[cell.scale_output].row_bytes() / sizeof(float);
  kernels::Anomalies anomalies;
  std::vector<kernels::CellPart> parts(segments.size());
  for (uint64_t b = 0; b < blocks; ++b) {
    for (size_t i = 0; i < parts.size(); ++i) {
      const CellSegment& segment = *segments[i];
      parts[i].codes = reinterpret_cast<const uint8_t*>(buffer.Row(segment.source, segment.source_row)) + b * block;
      parts[i].code_row_bytes = columns;
      parts[i].scale =
          ScaleAt(ScaleType(job, segment), buffer.Row(segment.scale, segment.scale_row), b, segment.factor);
      parts[i].out = reinterpret_cast<uint8_t*>(buffer.Output(segment.output, segment.target_row)) + b * block;
      parts[i].out_row_bytes = columns;
      parts[i].rows = static_cast<uint64_t>(segment.rows);
    }
    const uint64_t width = std::min(block, columns - b * block);
    const kernels::CellResult made = kernels::RequantizeCell(parts, width, job.plan.options.fresh_scales);
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

void EncodeCells(const StepBuffer& buffer, const CellRow& cell, BlockCounts* counts, StepResult* result) {
  const Job& job = buffer.job();
  const std::vector<const CellSegment*> segments = WithSource(cell);
  const uint64_t columns = job.plan.outputs[segments[0]->output].row_bytes();  // of codes
  const auto block = static_cast<uint64_t>(job.plan.sources[segments[0]->source].block_cols);
  std::byte* scales = buffer.Output(cell.scale_output, cell.scale_row);
  const std::byte* keep = cell.keep == kNone ? nullptr : buffer.Row(cell.keep, cell.keep_row);
  const uint64_t blocks = job.plan.outputs[cell.scale_output].row_bytes() / sizeof(float);
  kernels::Anomalies anomalies;
  std::vector<kernels::ValuePart> parts(segments.size());
  for (uint64_t b = 0; b < blocks; ++b) {
    for (size_t i = 0; i < parts.size(); ++i) {
      const CellSegment& segment = *segments[i];
      parts[i].codec = job.plan.sources[segment.source].codec;
      parts[i].data =
          buffer.Row(segment.source, segment.source_row) + ColumnBytes(parts[i].codec, static_cast<int64_t>(b * block));
      parts[i].row_bytes = buffer.RowBytes(segment.source);
      parts[i].out = reinterpret_cast<uint8_t*>(buffer.Output(segment.output, segment.target_row)) + b * block;
      parts[i].out_row_bytes = columns;
      parts[i].rows = static_cast<uint64_t>(segment.rows);
    }
    const float old = keep == nullptr ? 0 : ScaleAt(DType::kF32, keep, b, 1);
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

}  // namespace

void PlaceCell(const CellRow& cell, Needs* needs) {
  for (const CellSegment& segment : cell.segments) {
    if (segment.source != kNone) {
      needs->Read(segment.source, segment.source_row, segment.rows);
      if (segment.scale != kNone) needs->Read(segment.scale, segment.scale_row, 1);
    }
    if (!cell.moved || segment.source == kNone) needs->Make(segment.output, segment.target_row, segment.rows);
  }
  if (cell.keep != kNone) needs->Read(cell.keep, cell.keep_row, 1);
  if (MakesScales(needs->job(), cell)) needs->Make(cell.scale_output, cell.scale_row, 1);
}

void MakeCell(const StepBuffer& buffer, const CellJob& which, StepResult* result) {
  const Job& job = buffer.job();
  const CellRow& cell = job.plan.groups[which.group].cells[which.cell];
  for (const CellSegment& segment : cell.segments) {
    if (segment.source != kNone) continue;
    const uint64_t bytes = job.plan.outputs[segment.output].row_bytes();
    std::byte* out = buffer.Output(segment.output, segment.target_row);
    FillElements({out, static_cast<uint64_t>(segment.rows), bytes, bytes}, "");
    result->Emit(job, segment.output, segment.target_row, segment.rows, out, kNone, {});
  }
  BlockCounts counts;
  const CellSegment* first = FirstWithSource(cell);
  if (cell.moved || first == nullptr) {
    MoveCell(buffer, cell, &counts, result);
  } else if (first->scale == kNone) {
    EncodeCells(buffer, cell, &counts, result);
  } else {
    RequantizeCells(buffer, cell, &counts, result);
  }
  result->cells.push_back({which, counts});
}

}  // namespace mimo
