// A piece of one row of any source, as FP32.
#include <algorithm>

#include "kernels/cpu/encode_table.h"

namespace mimo::kernels {

void DecodeStrip(const Kernels& kernels, const SourceRows& rows, uint64_t cols, uint64_t row, uint64_t col,
                 size_t count, float* out, Anomalies* anomalies) {
  const Source& source = rows.source;
  const uint8_t* data = static_cast<const uint8_t*>(source.data) + row * source.row_bytes;
  if (HasBlockScales(source.codec)) {
    for (uint64_t block = rows.column_edges == nullptr ? col / rows.column_block : 0;; ++block) {
      const uint64_t start = std::max(col, ColumnEdge(rows, cols, block));
      const uint64_t end = std::min(col + count, ColumnEdge(rows, cols, block + 1));
      if (start >= col + count) return;
      if (start >= end) continue;
      const float scale = ColumnScale(rows, block);
      uint8_t* to = reinterpret_cast<uint8_t*>(out + (start - col));
      anomalies->nan_codes += kernels.decode_fp8(data + start, end - start, scale, to, false);
      CountRareFp8(scale, Codec::kFp32, data + start, 0, 1, end - start, anomalies);
      if (end == col + count) return;
    }
  }
  Band band;
  band.source = source;
  // FP32 is moved: which bits a NaN has shows in no code.
  band.source.data = data + col * ElementBits(source.codec) / 8;
  if (const uint32_t group = GroupOf(source.codec); group != 0) {
    band.source.scales = static_cast<const uint8_t*>(source.scales) + row * source.scale_row_bytes + col / group;
  }
  band.target = {.codec = Codec::kFp32, .data = out, .row_bytes = 4 * count};
  band.rows = 1;
  band.cols = count;
  Anomalies found = ConvertRows(kernels, band, 0, 1, false);
  found.bad_scales = 0;
  *anomalies += found;
}

uint64_t CountBadScales(const SourceRows& rows, uint64_t cols) {
  if (rows.continues || rows.rows == 0 || cols == 0) return 0;
  if (HasGlobal(rows.source.codec)) return Fp8ScaleIsBad(rows.source.global) ? 1 : 0;
  if (!HasBlockScales(rows.source.codec)) return 0;
  uint64_t bad = 0;
  for (uint64_t block = 0; block < ColumnBlocks(rows, cols); ++block) {
    const bool empty = ColumnEdge(rows, cols, block) == ColumnEdge(rows, cols, block + 1);
    bad += !empty && Fp8ScaleIsBad(ColumnScale(rows, block));
  }
  return bad;
}

}  // namespace mimo::kernels
