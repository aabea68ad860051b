// Values -> block codecs: NVFP4, MXFP4, MXFP8 and block FP8; equal bytes on every instruction set and device.
// Rules and their sources: reference quantization-formats.md 2.5, 3.2, 3.4, 4.1, 4.2, 4.4; docs/numerics.md.
//
// The unit is a run of consecutive rows of one quantized matrix, made from rows of any codec that convert.h decodes.
// Every value is decoded to FP32 (a cache-sized strip at a time; FP8 -> NVFP4 is fused), rounded to BF16 when asked,
// and encoded from there.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/convert.h"

namespace mimo::kernels {

// How the scale of a block is chosen.
enum class ScaleRule : uint8_t {
  kMax,          // kNvfp4: ModelOpt's amax rule (3.2). kFp8Block: s = max(amax, 1e-12) / 448
  kFourOverSix,  // kNvfp4: amax to 6 or to 4, whichever errs less; global = amax / 1536 (3.4)
  kSweep,        // kNvfp4: the best of the 126 positive E4M3 codes (3.4)
  kMse,          // kNvfp4: ModelOpt's mse calibration, amax multipliers per block (3.4)
  kRceil,        // kMxfp4, kMxfp8: 2^ceil(log2(amax / max)) (4.1)
  kFloor,        // likewise, the OCP rule
  kEven,         // likewise, the mantissa of amax rounded to that of the element first
  kCeil,         // likewise
};

enum class Ties : uint8_t { kEven, kTowardZero };

struct Encoding {
  Codec codec = Codec::kNvfp4;  // kNvfp4, kMxfp4, kMxfp8 or kFp8Block
  ScaleRule rule = ScaleRule::kMax;
  Ties ties = Ties::kEven;    // kMxfp4 only
  uint32_t block_rows = 128;  // kFp8Block: any; rows of the matrix that share a row of scales
  uint32_t block_cols = 128;  // kFp8Block: a multiple of 32; the last block may be narrower
  bool power_of_two = false;  // kFp8Block: UE8M0, s = 2^ceil(log2(max(amax, 1e-4) / 448)), stored as F32 (2.3)
  bool neuron = false;        // kFp8Block: for Neuron's E4M3, s = max(amax / 240, 1e-10), no code above 240 (0x77)
  bool via_bf16 = false;      // values are rounded to BF16 first, as tools that pass through BF16 do
  bool operator==(const Encoding&) const = default;
};

// Columns that share one scale within a row: 16, 32, or Encoding::block_cols.
uint32_t GroupColumns(const Encoding& encoding);

// Consecutive rows of the target that come from one place: a band as in convert.h, without its target. One row of
// scales for all of them when block FP8.
struct SourceRows {
  Source source;
  uint64_t rows = 0;
  const uint32_t* column_edges = nullptr;  // as in Band
  uint32_t column_blocks = 0;
  uint32_t column_block = 128;
  bool continues = false;  // the FP8 scales were judged with an earlier run: do not count them as bad again
};

// ---- what must be known of a whole fuse group before its first code

// Over finite values only. Combines by +=, in any order.
struct Measured {
  float amax = 0;
  bool all_mxfp4 = true;         // every row came from an MXFP4 source
  uint8_t least_exponent = 255;  // E8M0 bytes of MXFP4 groups with a non-zero element; NaN bytes left out
  uint8_t largest_exponent = 0;
  Measured& operator+=(const Measured& other);
  bool operator==(const Measured&) const = default;
};
Measured MeasureRows(std::span<const SourceRows> rows, uint64_t cols, bool via_bf16, Isa isa = BestIsa());

// What an NVFP4 fuse group is encoded under.
struct Nvfp4Global {
  float multiplier = 1;  // s2 = amax / 2688 (1536 under kFourOverSix), one division; 1 when amax is 0
  // MXFP4 groups become NVFP4 groups as they are (4.4): nibbles moved, block scale 2^(k - kmax + 8), multiplier 2^(kmax
  // - 8). Taken whenever all rows are MXFP4 and kmax - kmin <= 17.
  bool exact = false;
  uint8_t largest_exponent = 0;  // kmax + 127 when exact
  float amax = 0;                // what the multiplier came from; ModelOpt's calibrated rules start from it again
};
Nvfp4Global ChooseNvfp4Global(const Measured& group, ScaleRule rule);

// ---- encoding

// Sums over the elements of kStatRows consecutive target rows (fewer at the end), in a fixed order: x the source value
// (before any rounding to BF16), y the decoded code. Non-finite x are left out.
inline constexpr uint64_t kStatRows = 128;
struct ErrorSums {
  double error = 0;      // sum of (y - x)^2
  double source = 0;     // sum of x^2
  double target = 0;     // sum of y^2
  double product = 0;    // sum of x * y
  double max_error = 0;  // largest |y - x|
  double amax = 0;       // largest |x|
  uint64_t elements = 0;
  uint64_t zero_blocks = 0;     // groups (cells of block FP8) whose source values are all zero
  uint64_t saturated = 0;       // elements beyond the largest code before rounding: |x'| > 6 or > 448
  uint64_t least_scales = 0;    // scales at their lower limit: E4M3 0x01, E8M0 0x00 under a non-zero block
  uint64_t largest_scales = 0;  // scales at their upper limit: E4M3 0x7E, E8M0 0xFE
  uint64_t nan_codes = 0;       // NaN among the written codes and scales
  ErrorSums& operator+=(const ErrorSums& other);
  bool operator==(const ErrorSums&) const = default;
};

// Adds one row, or a part of one that begins at a multiple of kStatSegment: n values of x and of y. The sums of rows
// that are added in one order are the same everywhere (kernels/codec/error_lanes.h). Counts of codes stay as they are.
void AddErrors(const float* x, const float* y, size_t n, ErrorSums* sums, Isa isa = BestIsa());

// Rows of one quantized matrix. `from` together has `rows` rows. For block FP8 the first row begins a block.
struct EncodeJob {
  std::span<const SourceRows> from;
  uint64_t rows = 0;
  uint64_t cols = 0;  // a multiple of the group (16, 32); any number for block FP8
  Encoding encoding;
  Nvfp4Global global;        // kNvfp4
  uint8_t* codes = nullptr;  // packed two per byte (4 bits, low nibble = even column) or one per byte
  uint64_t code_row_bytes = 0;
  uint8_t* scales = nullptr;  // E4M3 or E8M0 bytes, one row per row; block FP8: F32, one row per block_rows rows
  uint64_t scale_row_bytes = 0;
  ErrorSums* errors = nullptr;  // null, or one per kStatRows rows; overwritten
  // kFp8Block and kMxfp4: null, or scales of the shape and row bytes of `scales`. A block keeps its scale here while
  // its values fit under it: no quotient rounds beyond the largest code (|x / s| <= 464 for E4M3, < 248 for Neuron's, <
  // 7 for E2M1), all are finite, and the scale is finite and positive. Blocks of other values get the scale of the
  // rule. Kept MXFP4 blocks keep the sign of zeros as well, so that codes that were decoded come back as they were.
  const uint8_t* keep = nullptr;
};

struct EncodeCounts {
  Anomalies anomalies;  // of the source values, as in convert.h; counted on every path
  uint64_t blocks = 0;  // groups, or cells of block FP8
  // Of those, the ones that an exact path moved without arithmetic on the elements: MXFP4 -> NVFP4
  // (Nvfp4Global::exact); NVFP4 -> MXFP4 where two neighbouring groups have one multiplier, a power of two (unless
  // scales are kept); MXFP4 -> block FP8 where all non-zero groups of a cell have kmax - k <= 14: scale 2^(kmax - 6);
  // block FP8 under a power-of-two scale in 2^-127 .. 2^127 -> MXFP8: codes moved, the exponent repeated.
  uint64_t exact_blocks = 0;
  uint64_t kept_blocks = 0;  // of `blocks`, those whose scale is that of EncodeJob::keep
  EncodeCounts& operator+=(const EncodeCounts& other);
  bool operator==(const EncodeCounts&) const = default;
};

// NaN source values become +6 / 0x7F under their sign (never moved silently: they are anomalies); infinities saturate.
EncodeCounts EncodeRows(const EncodeJob& job, Isa isa = BestIsa());

// ---- one cell of block FP8 from several arrays

// Rows of plain values inside a target cell.
struct ValuePart {
  Codec codec = Codec::kBf16;  // kFp32, kFp16 or kBf16
  const void* data = nullptr;
  uint64_t row_bytes = 0;
  uint8_t* out = nullptr;  // where their codes go
  uint64_t out_row_bytes = 0;
  uint64_t rows = 0;
};

// Encodes one cell (all parts x `cols` columns) under a single scale: `*keep` as in EncodeJob::keep when it is not
// null, else that of ScaleRule::kMax. The bytes are those of EncodeRows for the parts put together. `kept`: the scale
// is that of `keep`. Errors run over finite values, in a fixed order.
struct ValueCellResult {
  float scale = 0;
  bool kept = false;
  double squared_error = 0;  // sum of (decoded target - source)^2
  double squared_sum = 0;    // of the source values
  float max_error = 0;
  float amax = 0;
  Anomalies anomalies;
};
ValueCellResult EncodeValueCell(std::span<const ValuePart> parts, uint64_t cols, const float* keep = nullptr,
                                Isa isa = BestIsa());

}  // namespace mimo::kernels
