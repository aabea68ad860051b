// The bulk operations, the same for the CPU (kernels/cpu) and the GPU (kernels/cuda): equal bytes everywhere.
// No third-party dependency, no allocation by the caller's side, no exceptions.
//
// N + M structure: every codec decodes to FP32 and is encoded from FP32 (a cache-sized strip at a time, never a
// full-size FP32 tensor); the hot pairs (moves, FP8 block -> BF16, MXFP4 -> BF16) are fused and bypass the strip.
//
// The unit is a band: `rows` consecutive rows of a matrix that, in a block codec, share ONE row of scales. Row edges of
// a block grid are therefore arbitrary: the caller cuts bands where its grid says. Column edges are given per band.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/codec.h"

namespace mimo::kernels {

// How the values of a matrix lie in memory. `data` points at the band's first row.
struct Source {
  Codec codec = Codec::kBf16;
  const void* data = nullptr;
  uint64_t row_bytes = 0;        // stride between rows
  const void* scales = nullptr;  // kFp8Block: float[column_blocks]; kMxfp4, kMxfp8, kNvfp4: bytes of the first row
  uint64_t scale_row_bytes = 0;  // kMxfp4, kMxfp8, kNvfp4: stride between rows of scales
  float global = 1;              // kNvfp4: of the tensor
  bool global_divides = false;   // kNvfp4: a group's multiplier is fp32(scale) / global, else fp32(scale) * global
};

struct Target {
  Codec codec = Codec::kBf16;  // kFp32, kFp16 or kBf16
  void* data = nullptr;
  uint64_t row_bytes = 0;
};

struct Band {
  Source source;
  Target target;
  uint64_t rows = 0;
  uint64_t cols = 0;  // elements
  // kFp8Block: ascending column edges, column_edges[0] = 0 .. column_edges[column_blocks] = cols; nullptr when uniform.
  const uint32_t* column_edges = nullptr;
  uint32_t column_blocks = 0;
  uint32_t column_block = 128;  // the uniform width when column_edges is null (last block may be narrower)
};

// What was odd about the values. Always counted, on every path; what is an error is the caller's decision.
struct Anomalies {
  uint64_t nan_codes = 0;         // E4M3 0x7F/0xFF, E8M0 255 (counted per element), NaN in FP32/FP16/BF16 sources
  uint64_t infinities = 0;        // infinite source values (FP32/FP16/BF16)
  uint64_t zero_scale_codes = 0;  // non-zero element codes under a scale of zero
  uint64_t bad_scales = 0;  // FP8 block scales that are NaN, infinite or negative (counted once per band and block)
  uint64_t overflows = 0;   // finite values that became infinite in the target
  Anomalies& operator+=(const Anomalies& o);
  bool operator==(const Anomalies&) const = default;
};

// Implementations of the CPU interface; all give equal bytes.
enum class Isa : uint8_t { kPortable, kAvx2, kAvx512 };
const char* IsaName(Isa isa);
// Whether this machine can run it. kAvx512 means F + BW + VL + VBMI.
bool IsaAvailable(Isa isa);
// The best available one, which every operation takes that is not given another (tests, benchmarks).
Isa BestIsa();

// Numeric contract (docs/numerics.md): FP8 value = fp32(code) * fp32(scale), one FP32 rounding, then one RNE rounding
// to the target. MXFP4 and MXFP8 value = element * 2^(byte-127) in FP32 (byte 255 = NaN). NVFP4 value = e2m1 * m, m the
// group's multiplier (Source::global), itself rounded to FP32 once. NaN is written as sign | 0x7FC00000 / 0x7E00 /
// 0x7FC0. No FMA contraction, no flush to zero. FP32 -> FP32 of plain sources copies bits; a same-codec plain pair is a
// move and may not be altered. Bands must not overlap in their targets. Bands are processed in parallel with `threads`
// threads, or as many as the system gives (1: none started).
Anomalies ConvertBands(std::span<const Band> bands, int threads = 1, Isa isa = BestIsa());

// ---- FP8 cells that straddle source blocks

// One rectangle of codes inside a target cell, all under one source scale.
struct CellPart {
  const uint8_t* codes = nullptr;
  uint64_t code_row_bytes = 0;
  float scale = 0;         // source multiplier
  uint8_t* out = nullptr;  // where its codes go
  uint64_t out_row_bytes = 0;
  uint64_t rows = 0;
};

struct CellResult {
  float scale = 0;           // the target multiplier
  bool moved = false;        // all parts had bit-equal scales: codes were copied
  int chosen = -1;           // index of the part whose scale was kept, or -1 for the fresh scale
  double squared_error = 0;  // sum over elements of (decoded target - decoded source)^2, FP64, over FP32-decoded values
  double squared_sum = 0;    // sum of squares of the source values
  float max_error = 0;
  float amax = 0;
  Anomalies anomalies;
};

// Re-quantizes one cell (all parts x `cols` columns) to a single scale. Candidates: each distinct source scale in part
// order, then the fresh one, s = max(amax, 1e-12f) / 448.0f; q = RNE(clamp(x / s, +-448)). The least squared error
// wins, first wins ties. `fresh_only` skips the source scales (--scale-policy fresh). A zero or non-finite source scale
// is never a candidate. Sums run in a fixed order, so the choice does not depend on threads or ISA.
CellResult RequantizeCell(std::span<const CellPart> parts, uint64_t cols, bool fresh_only = false);

// ---- survey

// Largest magnitude code (0..0x7F; 0x7F is NaN) of each column block of a band of E4M3 codes.
void MaxCodes(const uint8_t* codes, uint64_t row_bytes, uint64_t rows, uint64_t cols, uint32_t column_block,
              uint8_t* out);
// How many E4M3 codes are NaN.
uint64_t CountNanCodes(const uint8_t* codes, uint64_t n);

}  // namespace mimo::kernels
