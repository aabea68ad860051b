#include "lib/decode/row_runs.h"

#include <cstring>

#include "lib/base/checked.h"
#include "lib/decode/row_bytes.h"
#include "lib/model/scale_values.h"

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
  const std::vector<SourceBand> bands = BandsOf(source, from.row, from.rows);
  std::vector<const float*> scales;
  AddScales(memory, source, bands, &scales);
  for (size_t i = 0; i < bands.size(); ++i) {
    const SourceBand& band = bands[i];
    run.source.data = data + Rows(band.row_begin - from.row, run.source.row_bytes);
    run.source.scales = scales[i] + from.col / source.block_cols;
    run.rows = static_cast<uint64_t>(band.row_end - band.row_begin);
    runs_.push_back(run);
    run.continues = false;
  }
}

void RowRuns::AddScales(const SourceMemory& memory, const SourceArray& source, std::span<const SourceBand> bands,
                        std::vector<const float*>* rows) {
  const uint64_t element = BitsPerElement(source.scale_type) / 8;
  const auto count_of = [&](const SourceBand& band) {
    return source.scales_in_a_row ? 1 : memory.RowBytes(band.scale) / element;
  };
  const auto stored_at = [&](const SourceBand& band) {
    return source.scales_in_a_row ? memory.Row(band.scale, 0) + Rows(band.scale_row, element)
                                  : memory.Row(band.scale, band.scale_row);
  };
  const auto is_ready = [&](const std::byte* stored) {
    return source.scale_type == DType::kF32 && reinterpret_cast<uintptr_t>(stored) % alignof(float) == 0;
  };
  uint64_t copied = 0;
  for (const SourceBand& band : bands) copied += is_ready(stored_at(band)) ? 0 : count_of(band);
  float* copy = copied == 0 ? nullptr : scales_.emplace_back(copied).data();
  for (const SourceBand& band : bands) {
    const std::byte* stored = stored_at(band);
    if (is_ready(stored)) {
      rows->push_back(reinterpret_cast<const float*>(stored));
      continue;
    }
    WidenScales(source.scale_type, stored, count_of(band), copy);
    rows->push_back(copy);
    copy += count_of(band);
  }
}

}  // namespace mimo
