// Rows of groups: NVFP4, MXFP4 and MXFP8. Block FP8 is in encode_cells.cc.
#include "kernels/encode.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/encode_table.h"

namespace mimo::kernels {
namespace {

// One run of source rows and where its first row goes.
struct Run {
  const EncodeJob& job;
  const Kernels& kernels;
  const EncodeKernels& encoders;
  const SourceRows& rows;
  uint64_t first_row = 0;  // of the target
  EncodeCounts counts;

  uint8_t* Codes(uint64_t row) const { return job.codes + (first_row + row) * job.code_row_bytes; }
  uint8_t* Scales(uint64_t row) const { return job.scales + (first_row + row) * job.scale_row_bytes; }
  const uint8_t* Keep(uint64_t row, uint64_t col) const {
    if (job.keep == nullptr) return nullptr;
    return job.keep + (first_row + row) * job.scale_row_bytes + col / GroupColumns(job.encoding);
  }
  const uint8_t* Data(uint64_t row) const {
    return static_cast<const uint8_t*>(rows.source.data) + row * rows.source.row_bytes;
  }
  const uint8_t* SourceScales(uint64_t row) const {
    return static_cast<const uint8_t*>(rows.source.scales) + row * rows.source.scale_row_bytes;
  }
};

uint64_t CodeBytes(Codec codec, uint64_t columns) {
  return IsPacked(codec) ? columns / 2 : columns;
}

// ---- through the strip

void EncodeStrip(Run* run, uint64_t row, uint64_t col, size_t count) {
  alignas(64) float strip[kEncodeStrip];
  const Encoding& encoding = run->job.encoding;
  DecodeStrip(run->kernels, run->rows, run->job.cols, row, col, count, strip, &run->counts.anomalies);
  if (encoding.via_bf16) run->counts.anomalies.overflows += run->encoders.round_bf16(strip, count);
  const size_t groups = count / GroupColumns(encoding);
  uint8_t* codes = run->Codes(row) + CodeBytes(encoding.codec, col);
  uint8_t* scales = run->Scales(row) + col / GroupColumns(encoding);
  switch (encoding.codec) {
    case Codec::kMxfp4:
      run->counts.kept_blocks += run->encoders.mxfp4(strip, groups, encoding.rule, encoding.ties == Ties::kTowardZero,
                                                     run->Keep(row, col), codes, scales);
      break;
    case Codec::kMxfp8:
      run->encoders.mxfp8(strip, groups, encoding.rule, codes, scales);
      break;
    case Codec::kNvfp4:
      run->encoders.nvfp4(strip, groups, encoding.rule, RangeOf(run->job.global), codes, scales);
      break;
    case Codec::kFp8Block:  // encode_cells.cc
    case Codec::kFp32:
    case Codec::kFp16:
    case Codec::kBf16:
      break;
  }
}

void EncodeRow(Run* run, uint64_t row) {
  for (uint64_t col = 0; col < run->job.cols; col += kEncodeStrip) {
    EncodeStrip(run, row, col, std::min<uint64_t>(kEncodeStrip, run->job.cols - col));
  }
}

// ---- FP8 -> NVFP4, fused

// Whether every code has a finite value, so that the group maximum code decides everything.
bool Ordinary(float scale, bool via_bf16) {
  if (!IsFinite(scale) || (FloatBits(scale) & kFp32Sign) != 0) return false;
  return IsFinite(EncodedValue(Fp8Value(kE4m3MaxCode, scale), via_bf16));
}

// Whole runs of FP8 blocks whose edges are multiples of 16.
bool FuseFp8ToNvfp4(Run* run) {
  const EncodeJob& job = run->job;
  const SourceRows& rows = run->rows;
  if (run->encoders.fp8_nvfp4 == nullptr || job.encoding.rule != ScaleRule::kMax) return false;
  if (rows.source.codec != Codec::kFp8Block) return false;
  const uint64_t blocks = ColumnBlocks(rows, job.cols);
  for (uint64_t block = 0; block < blocks; ++block) {
    if (ColumnEdge(rows, job.cols, block) % kNvfp4Group != 0) return false;
    if (!Ordinary(ColumnScale(rows, block), job.encoding.via_bf16)) return false;
  }
  for (uint64_t first = 0; first < blocks; first += kFusedBlocks) {
    const uint64_t start = ColumnEdge(rows, job.cols, first);
    Fp8ToNvfp4 panel;
    panel.from = run->Data(0) + start;
    panel.from_row_bytes = rows.source.row_bytes;
    panel.rows = rows.rows;
    panel.blocks = static_cast<uint32_t>(std::min<uint64_t>(kFusedBlocks, blocks - first));
    for (uint32_t i = 0; i < panel.blocks; ++i) {
      panel.edges[i + 1] = static_cast<uint32_t>(ColumnEdge(rows, job.cols, first + i + 1) - start);
      panel.block_scales[i] = ColumnScale(rows, first + i);
      CountRareFp8(panel.block_scales[i], Codec::kFp32, panel.from + panel.edges[i], panel.from_row_bytes, rows.rows,
                   panel.edges[i + 1] - panel.edges[i], &run->counts.anomalies);
    }
    panel.via_bf16 = job.encoding.via_bf16;
    panel.multiplier = job.global.multiplier;
    panel.codes = run->Codes(0) + start / 2;
    panel.code_row_bytes = job.code_row_bytes;
    panel.scales = run->Scales(0) + start / kNvfp4Group;
    panel.scale_row_bytes = job.scale_row_bytes;
    run->counts.anomalies.nan_codes += run->encoders.fp8_nvfp4(panel);
  }
  return true;
}

// ---- MXFP4 -> NVFP4, exactly

bool AllZero(const uint8_t* packed) {
  uint8_t any = 0;
  for (size_t i = 0; i < kMxGroup / 2; ++i) any |= packed[i];
  return (any & 0x77) == 0;
}

// Whether a group lies in the range of E4M3 scales under the tensor's multiplier. Zeros always do.
bool InExactRange(uint8_t byte, uint8_t largest, const uint8_t* packed) {
  if (byte == kE8m0Nan) return false;
  return (byte <= largest && largest - byte <= kNvfp4ExactSpan) || AllZero(packed);
}

void MoveMxfp4Row(Run* run, uint64_t row) {
  const uint8_t* packed = run->Data(row);
  const uint8_t* bytes = run->SourceScales(row);
  const uint8_t largest = run->job.global.largest_exponent;
  uint8_t* codes = run->Codes(row);
  uint8_t* scales = run->Scales(row);
  for (uint64_t group = 0; group * kMxGroup < run->job.cols; ++group) {
    // A row may end with half a group.
    const uint64_t columns = std::min<uint64_t>(kMxGroup, run->job.cols - group * kMxGroup);
    const uint8_t* from = packed + group * kMxGroup / 2;
    uint8_t whole[kMxGroup / 2] = {};
    std::memcpy(whole, from, columns / 2);
    if (!InExactRange(bytes[group], largest, whole)) {
      EncodeStrip(run, row, group * kMxGroup, columns);
      continue;
    }
    std::memcpy(codes + group * kMxGroup / 2, from, columns / 2);
    const uint64_t halves = columns / kNvfp4Group;
    std::memset(scales + 2 * group, Nvfp4ExactScale(bytes[group], largest), halves);
    run->counts.exact_blocks += halves;
  }
}

// ---- block FP8 under powers of two -> MXFP8, exactly

// Moves what lies under one power of two, group by group; the rest goes through the strip.
void MoveFp8Row(Run* run, uint64_t row, bool all) {
  const SourceRows& rows = run->rows;
  const uint64_t cols = run->job.cols;
  if (!all) EncodeRow(run, row);
  Anomalies moved;  // of groups that the strip has not counted
  const uint8_t* from = run->Data(row);
  uint64_t group = 0;
  for (uint64_t block = 0; block < ColumnBlocks(rows, cols); ++block) {
    const uint64_t end = ColumnEdge(rows, cols, block + 1);
    const uint64_t start = ColumnEdge(rows, cols, block);
    uint8_t byte = 0;
    if (!Fp8ScaleAsE8m0(ColumnScale(rows, block), &byte)) continue;
    group = (start + kMxGroup - 1) / kMxGroup;
    if ((group + 1) * kMxGroup > end) continue;
    const uint64_t groups = end / kMxGroup - group;
    const uint8_t* codes = from + group * kMxGroup;
    std::memcpy(run->Codes(row) + group * kMxGroup, codes, groups * kMxGroup);
    std::memset(run->Scales(row) + group, byte, groups);
    run->counts.exact_blocks += groups;
    if (!all) continue;
    moved.nan_codes += CountNanCodes(codes, groups * kMxGroup);
    CountRareFp8(E8m0ToFloat(byte), Codec::kFp32, codes, 0, 1, groups * kMxGroup, &moved);
  }
  run->counts.anomalies += moved;
}

// Whether some, and whether all, of a run can be moved.
struct Movable {
  bool any = false;
  bool all = true;
};
Movable MovableToMxfp8(const SourceRows& rows, uint64_t cols) {
  Movable movable;
  if (rows.source.codec != Codec::kFp8Block) return {false, false};
  for (uint64_t block = 0; block < ColumnBlocks(rows, cols); ++block) {
    const uint64_t start = ColumnEdge(rows, cols, block);
    const uint64_t end = ColumnEdge(rows, cols, block + 1);
    if (start == end) continue;
    uint8_t byte = 0;
    const bool power = Fp8ScaleAsE8m0(ColumnScale(rows, block), &byte);
    movable.any |= power;
    movable.all &= power && start % kMxGroup == 0 && end % kMxGroup == 0;
  }
  return movable;
}

// ---- NVFP4 -> MXFP4, exactly

// Nibbles of what lies under one power of two are moved, group by group; the rest goes through the strip.
void MoveNvfp4Row(Run* run, uint64_t row) {
  const Source& source = run->rows.source;
  const uint8_t* from = run->SourceScales(row);
  const uint64_t groups = run->job.cols / kMxGroup;
  uint64_t movable = 0;
  uint8_t byte = 0;
  for (uint64_t g = 0; g < groups; ++g)
    movable += Nvfp4PairAsE8m0(from[2 * g], from[2 * g + 1], source.global, source.global_divides, &byte) ? 1 : 0;
  if (movable < groups) EncodeRow(run, row);
  if (movable == 0) return;
  for (uint64_t g = 0; g < groups; ++g) {
    if (!Nvfp4PairAsE8m0(from[2 * g], from[2 * g + 1], source.global, source.global_divides, &byte)) continue;
    std::memcpy(run->Codes(row) + g * kMxGroup / 2, run->Data(row) + g * kMxGroup / 2, kMxGroup / 2);
    run->Scales(row)[g] = byte;
    ++run->counts.exact_blocks;
  }
}

void EncodeRun(Run* run) {
  const Codec codec = run->job.encoding.codec;
  const Codec from = run->rows.source.codec;
  run->counts.anomalies.bad_scales += CountBadScales(run->rows, run->job.cols);
  if (codec == Codec::kNvfp4 && FuseFp8ToNvfp4(run)) return;
  const bool move_mxfp4 = codec == Codec::kNvfp4 && from == Codec::kMxfp4 && run->job.global.exact;
  const Movable move_fp8 = codec == Codec::kMxfp8 ? MovableToMxfp8(run->rows, run->job.cols) : Movable{false, false};
  const bool move_nvfp4 = codec == Codec::kMxfp4 && from == Codec::kNvfp4 && run->job.keep == nullptr;
  for (uint64_t row = 0; row < run->rows.rows; ++row) {
    if (move_mxfp4) {
      MoveMxfp4Row(run, row);
    } else if (move_nvfp4) {
      MoveNvfp4Row(run, row);
    } else if (move_fp8.any) {
      MoveFp8Row(run, row, move_fp8.all);
    } else {
      EncodeRow(run, row);
    }
  }
}

EncodeCounts EncodeGroups(const EncodeJob& job, const Kernels& kernels, const EncodeKernels& encoders) {
  EncodeCounts counts;
  uint64_t row = 0;
  for (const SourceRows& rows : job.from) {
    Run run{job, kernels, encoders, rows, row, {}};
    EncodeRun(&run);
    counts += run.counts;
    row += rows.rows;
  }
  counts.blocks = job.rows * (job.cols / GroupColumns(job.encoding));
  return counts;
}

}  // namespace

uint32_t GroupColumns(const Encoding& encoding) {
  return HasBlockScales(encoding.codec) ? encoding.block_cols : GroupOf(encoding.codec);
}

EncodeCounts& EncodeCounts::operator+=(const EncodeCounts& other) {
  anomalies += other.anomalies;
  blocks += other.blocks;
  exact_blocks += other.exact_blocks;
  kept_blocks += other.kept_blocks;
  return *this;
}

const EncodeKernels& EncodersFor(Isa isa) {
#ifdef MIMO_X86
  if (isa != Isa::kPortable && IsaAvailable(Isa::kAvx2)) return Avx2Encoders();
#endif
  (void)isa;
  return PortableEncoders();
}

EncodeCounts EncodeRows(const EncodeJob& job, Isa isa) {
  return EncodeRowsWith(job, KernelsFor(isa), EncodersFor(isa));
}

EncodeCounts EncodeRowsWith(const EncodeJob& job, const Kernels& kernels, const EncodeKernels& encoders) {
  EncodeCounts counts;
  if (job.rows == 0 || job.cols == 0) return counts;
  switch (job.encoding.codec) {
    case Codec::kFp8Block:
      counts = EncodeCells(job, kernels, encoders);
      break;
    case Codec::kMxfp4:
    case Codec::kMxfp8:
    case Codec::kNvfp4:
      counts = EncodeGroups(job, kernels, encoders);
      break;
    case Codec::kFp32:  // no encodings: encode.h
    case Codec::kFp16:
    case Codec::kBf16:
      return counts;
  }
  if (job.errors != nullptr) SumErrors(job, kernels, encoders);
  return counts;
}

}  // namespace mimo::kernels
