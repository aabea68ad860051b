#include "lib/decode/row_runs.h"

#include <cstring>

#include "lib/base/checked.h"
#include "lib/decode/row_bytes.h"

namespace mimo {

void RowRuns::Add(const SourceMemory& memory, const SourceRectangle& from) {
  const SourceArray& source = memory.sources()[from.source];
  kernels::SourceRows run;
  run.source.codec = source.codec;
  run.source.data = memory.Row(from.source, from.row) + ColumnBytes(source.codec, from.col);
  run.source.row_bytes = memory.RowBytes(from.source);
  run.rows = static_cast<uint64_t>(from.rows);
  if (source.quantized && kernels::HasBlockScales(source.codec)) return AddBands(memory, from, run);
  if (const int64_t group = kernels::GroupOf(source.codec); source.quantized && group > 0) {
    run.source.scales = memory.Row(source.scale, from.row) + from.col / group;
    run.source.scale_row_bytes = memory.RowBytes(source.scale);
    if (source.global != kNone) {
      std::memcpy(&run.source.global, memory.Row(source.global, 0), sizeof run.source.global);
      run.source.global_divides = source.global_divides;
    }
  }
  runs_.push_back(run);
}

void RowRuns::Add(kernels::SourceRows rows, std::vector<float> scales, std::vector<uint32_t> edges) {
  rows.source.scales = scales_.emplace_back(std::move(scales)).data();
  const std::vector<uint32_t>& kept = edges_.emplace_back(std::move(edges));
  rows.column_edges = kept.data();
  rows.column_blocks = static_cast<uint32_t>(kept.size() - 1);
  runs_.push_back(rows);
}

void RowRuns::AddBands(const SourceMemory& memory, const SourceRectangle& from, kernels::SourceRows run) {
  const SourceArray& source = memory.sources()[from.source];
  run.column_block = static_cast<uint32_t>(source.block_cols);
  run.column_blocks = static_cast<uint32_t>(CeilDiv(from.cols, source.block_cols));
  if (const int64_t within = from.col % source.block_cols; within != 0) {  // begins inside a block
    std::vector<uint32_t>& edges = edges_.emplace_back();
    edges.push_back(0);
    for (int64_t edge = source.block_cols - within; edge < from.cols; edge += source.block_cols)
      edges.push_back(static_cast<uint32_t>(edge));
    edges.push_back(static_cast<uint32_t>(from.cols));
    run.column_blocks = static_cast<uint32_t>(edges.size() - 1);
    run.column_edges = edges.data();
  }
  run.continues = from.row > from.first_row && BandsOf(source, from.row - 1, 2).size() == 1;
  const auto* data = static_cast<const std::byte*>(run.source.data);
  for (const SourceBand& band : BandsOf(source, from.row, from.rows)) {
    run.source.data = data + Rows(band.row_begin - from.row, run.source.row_bytes);
    run.source.scales =
        Aligned(memory.Row(band.scale, band.scale_row), memory.RowBytes(band.scale)) + from.col / source.block_cols;
    run.rows = static_cast<uint64_t>(band.row_end - band.row_begin);
    runs_.push_back(run);
    run.continues = false;
  }
}

const float* RowRuns::Aligned(const std::byte* scales, uint64_t bytes) {
  if (reinterpret_cast<uintptr_t>(scales) % alignof(float) == 0) return reinterpret_cast<const float*>(scales);
  std::vector<float>& copy = scales_.emplace_back(bytes / sizeof(float));
  std::memcpy(copy.data(), scales, bytes);
  return copy.data();
}

}  // namespace mimo
