// What an instruction set implements of the encoders: whole groups of FP32 -> codes and scales, and the bulk loops of
// measuring and of error sums. All give equal bytes; the definitions are those of kernels/codec. Bytes of any
// alignment.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codec/error_lanes.h"
#include "kernels/codec/scale_rule.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/encode.h"

namespace mimo::kernels {

// Neighbouring blocks of a run of FP8 rows: what the fused FP8 -> NVFP4 path needs.
inline constexpr uint32_t kFusedBlocks = 32;
struct Fp8ToNvfp4 {
  const uint8_t* from = nullptr;
  uint64_t from_row_bytes = 0;
  uint64_t rows = 0;
  uint32_t blocks = 0;                    // at most kFusedBlocks
  uint32_t edges[kFusedBlocks + 1] = {};  // columns from the first block's on; multiples of 16
  float block_scales[kFusedBlocks] = {};  // finite, not negative, 448 times it finite (in BF16 too when via_bf16)
  bool via_bf16 = false;
  float multiplier = 1;  // of the tensor
  uint8_t* codes = nullptr;
  uint64_t code_row_bytes = 0;
  uint8_t* scales = nullptr;
  uint64_t scale_row_bytes = 0;
};

// One segment of kStatSegment columns at most.
struct SegmentErrors {
  ErrorLane sums;
  double max_error = 0;
  double amax = 0;
  uint64_t elements = 0;
};

struct EncodeKernels {
  // n FP32 rounded to BF16 and back, in place. Returns how many finite ones became infinite.
  uint64_t (*round_bf16)(float* values, size_t n);
  // The largest finite magnitude, 0 if none.
  float (*amax)(const float* values, size_t n);
  void (*nvfp4)(const float* values, size_t groups, ScaleRule rule, const Nvfp4Range& range, uint8_t* codes,
                uint8_t* scales);
  // keep: null, or a byte per group (EncodeJob::keep). Returns how many groups kept theirs.
  uint64_t (*mxfp4)(const float* values, size_t groups, ScaleRule rule, bool toward_zero, const uint8_t* keep,
                    uint8_t* codes, uint8_t* scales);
  void (*mxfp8)(const float* values, size_t groups, ScaleRule rule, uint8_t* codes, uint8_t* scales);
  void (*fp8)(const float* values, size_t n, float scale, uint8_t* codes);
  SegmentErrors (*errors)(const float* x, const float* y, size_t n);
  // How many |values| divided by `divisor` exceed `limit`; NaN does not.
  uint64_t (*beyond)(const float* values, size_t n, float divisor, float limit);
  uint64_t (*fp8_nvfp4)(const Fp8ToNvfp4& panel);  // returns NaN codes; null where the strip is as good
  // largest[i] = max(largest[i], magnitude of row[i]) for i < n; codes with bit 7 cleared.
  void (*column_max)(const uint8_t* row, size_t n, uint8_t* largest);
  // The largest magnitude pattern: bits without the sign.
  uint16_t (*max16)(const uint8_t* in, size_t n);
  uint32_t (*max32)(const uint8_t* in, size_t n);
};

const EncodeKernels& PortableEncoders();
#ifdef MIMO_X86
const EncodeKernels& Avx2Encoders();
uint64_t EncodeFp8ToNvfp4Avx2(const Fp8ToNvfp4& panel);
#endif
const EncodeKernels& EncodersFor(Isa isa);
EncodeCounts EncodeRowsWith(const EncodeJob& job, const Kernels& kernels, const EncodeKernels& encoders);
Measured MeasureRowsWith(std::span<const SourceRows> rows, uint64_t cols, bool via_bf16, const Kernels& kernels,
                         const EncodeKernels& encoders);

// ---- shared by all of them

inline constexpr size_t kEncodeStrip = 2048;  // FP32 elements; a multiple of every group and of kStatSegment

// `count` columns from `col` on of row `row`, decoded to FP32. Counts all anomalies but bad scales.
void DecodeStrip(const Kernels& kernels, const SourceRows& rows, uint64_t cols, uint64_t row, uint64_t col,
                 size_t count, float* out, Anomalies* anomalies);
// FP8 scales and the NVFP4 multiplier of a run that are NaN, infinite or negative; none when the run continues another.
uint64_t CountBadScales(const SourceRows& rows, uint64_t cols);

inline uint64_t ColumnBlocks(const SourceRows& rows, uint64_t cols) {
  if (rows.column_edges != nullptr) return rows.column_blocks;
  return (cols + rows.column_block - 1) / rows.column_block;
}
inline uint64_t ColumnEdge(const SourceRows& rows, uint64_t cols, uint64_t block) {
  if (rows.column_edges != nullptr) return rows.column_edges[block];
  return block * rows.column_block < cols ? block * rows.column_block : cols;
}
inline float ColumnScale(const SourceRows& rows, uint64_t block) {
  return FloatFromBits(Load32(static_cast<const uint8_t*>(rows.source.scales) + 4 * block));
}

// Encodes rows of blocks of FP8. (Groups within a row: EncodeRows itself.)
EncodeCounts EncodeCells(const EncodeJob& job, const Kernels& kernels, const EncodeKernels& encoders);
// Overwrites job.errors from what was encoded.
void SumErrors(const EncodeJob& job, const Kernels& kernels, const EncodeKernels& encoders);

}  // namespace mimo::kernels
