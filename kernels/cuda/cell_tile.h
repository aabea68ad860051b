// Cells of block FP8: a block of threads makes one cell in three steps, with what is known of it in shared memory. The
// rows of a cell may come from several runs.
#pragma once

#include "kernels/cuda/encode_tile.h"

namespace mimo::kernels::cuda {

// Of one cell. Maxima and minima: combined in any order.
struct CellState {
  uint32_t amax;       // bits of the largest finite magnitude
  uint32_t not_mxfp4;  // some element is not MXFP4, or its byte is NaN
  uint32_t least;      // bytes of MXFP4 groups that are not zero
  uint32_t largest;
  uint32_t not_finite;  // some value is NaN or infinite
  float scale;
  uint32_t exact;
};

MIMO_HD inline CellState EmptyCell() {
  return {0, 0, 255, 0, 0, 0, 0};
}

MIMO_HD inline void MergeMax(uint32_t* into, uint32_t value) {
#ifdef __CUDA_ARCH__
  atomicMax(into, value);
#else
  if (value > *into) *into = value;
#endif
}
MIMO_HD inline void MergeMin(uint32_t* into, uint32_t value) {
#ifdef __CUDA_ARCH__
  atomicMin(into, value);
#else
  if (value < *into) *into = value;
#endif
}
MIMO_HD inline void MergeCell(const CellState& from, CellState* into) {
  MergeMax(&into->amax, from.amax);
  MergeMax(&into->not_mxfp4, from.not_mxfp4);
  MergeMin(&into->least, from.least);
  MergeMax(&into->largest, from.largest);
  MergeMax(&into->not_finite, from.not_finite);
}

struct CellJob {
  const DeviceRun* runs;  // ascending first_row, without gaps
  uint32_t run_count;
  uint64_t rows;
  uint64_t cols;
  uint64_t cells_across;
  EncodeParams params;
};

// Units of 8 columns of one cell, dealt to the threads row by row.
struct CellRange {
  uint64_t first_row, end_row;  // of the job
  uint64_t first_col, end_col;
};

MIMO_HD inline CellRange RangeOfCell(const CellJob& job, uint64_t cell) {
  const Encoding& encoding = job.params.encoding;
  CellRange range;
  range.first_row = cell / job.cells_across * encoding.block_rows;
  range.end_row = range.first_row + encoding.block_rows < job.rows ? range.first_row + encoding.block_rows : job.rows;
  range.first_col = cell % job.cells_across * encoding.block_cols;
  range.end_col = range.first_col + encoding.block_cols < job.cols ? range.first_col + encoding.block_cols : job.cols;
  return range;
}

// visit(run, row of the run, first column, columns) for the thread's units. block_cols is a multiple of 32, so units do
// not cross cells.
template <class Visit>
MIMO_HD inline void ForUnits(const CellJob& job, const CellRange& range, uint32_t thread, const Visit& visit) {
  uint32_t run = LastBefore(job.run_count, range.first_row, [&](uint32_t i) { return job.runs[i].first_row; });
  const uint64_t units = (range.end_col - range.first_col + kUnit - 1) / kUnit;
  for (uint64_t at = thread; at < units * (range.end_row - range.first_row); at += kThreads) {
    const uint64_t row = range.first_row + at / units;
    while (row >= job.runs[run].first_row + job.runs[run].from.rows) ++run;
    const uint64_t col = range.first_col + at % units * kUnit;
    const uint64_t left = range.end_col - col;
    visit(job.runs[run], row - job.runs[run].first_row, col, static_cast<uint32_t>(left < kUnit ? left : kUnit));
  }
}

// First step: what the thread's units say of the cell. Everything odd is counted here.
MIMO_HD inline void MeasureCell(const CellJob& job, uint64_t cell, uint32_t thread, CellState* mine, Tally* tally) {
  ForUnits(job, RangeOfCell(job, cell), thread,
           [&](const DeviceRun& run, uint64_t row, uint64_t col, uint32_t columns) {
             float values[kUnit];
             DecodeAnyUnit(run.from, row, col, values, tally);
             for (uint32_t i = 0; i < columns; ++i) {
               const float value = EncodedElement(values[i], job.params.encoding.via_bf16, &tally->overflows);
               const uint32_t bits = FloatBits(FiniteMagnitude(value));
               if (bits > mine->amax) mine->amax = bits;
               if (!IsFinite(value)) mine->not_finite = 1;
             }
             if (run.from.codec != Codec::kMxfp4) {
               mine->not_mxfp4 = 1;
               return;
             }
             const uint32_t byte = run.from.scales[row * run.from.scale_row_bytes + col / kMxGroup];
             if (byte == kE8m0Nan) mine->not_mxfp4 = 1;
             if (!AnyNonZeroNibble(run.from, row, col, col + columns)) return;
             if (byte < mine->least) mine->least = byte;
             if (byte > mine->largest) mine->largest = byte;
           });
}

// Second step, one thread: the scale. Counts the cell where it is exact or keeps its scale.
MIMO_HD inline void DecideCell(const CellJob& job, uint64_t cell, CellState* state, Tally* tally) {
  const Encoding& encoding = job.params.encoding;
  const float amax = FloatFromBits(state->amax);
  const uint64_t at = cell / job.cells_across * job.runs[0].scale_row_bytes + cell % job.cells_across * 4;
  const float old = job.runs[0].keep == nullptr ? 0 : FloatFromBits(LoadBytes(job.runs[0].keep + at, 4));
  const bool kept = state->not_finite == 0 && Fp8ScaleFits(encoding, amax, old);  // 0 never fits
  const bool exact = !kept && !encoding.neuron && state->not_mxfp4 == 0 && state->largest >= state->least &&
                     state->largest - state->least <= kFp8ExactSpan && state->largest <= kMxfp4LargestFinite;
  state->exact = exact ? 1 : 0;
  state->scale = kept    ? old
                 : exact ? Fp8ExactScale(static_cast<uint8_t>(state->largest))
                         : Fp8CellScale(encoding, amax);
  StoreBytes(job.runs[0].scales + at, FloatBits(state->scale), 4);
  tally->exact_blocks += state->exact;
  tally->kept_blocks += kept ? 1 : 0;
}

// Third step: the codes of the thread's units.
MIMO_HD inline void EncodeCell(const CellJob& job, uint64_t cell, uint32_t thread, const CellState& state) {
  ForUnits(job, RangeOfCell(job, cell), thread,
           [&](const DeviceRun& run, uint64_t row, uint64_t col, uint32_t columns) {
             uint8_t* codes = run.codes + row * run.code_row_bytes + col;
             uint8_t made[kUnit];
             if (state.exact != 0) {
               const uint8_t byte = run.from.scales[row * run.from.scale_row_bytes + col / kMxGroup];
               const uint8_t largest = static_cast<uint8_t>(state.largest);
               const uint8_t* in = run.from.data + row * run.from.data_row_bytes;
               for (uint32_t i = 0; i < columns; ++i) {
                 const uint8_t nibble = static_cast<uint8_t>(in[(col + i) / 2] >> ((col + i) % 2 * 4) & 15);
                 made[i] = Fp8ExactCode(nibble, byte, largest);
               }
             } else {
               float values[kUnit];
               Tally again;  // counted by the first step
               DecodeAnyUnit(run.from, row, col, values, &again);
               for (uint32_t i = 0; i < columns; ++i) {
                 const float value = EncodedValue(values[i], job.params.encoding.via_bf16);
                 made[i] = Fp8CellCode(job.params.encoding, value, state.scale);
               }
             }
             if (run.from.aligned && columns == kUnit) {
               StoreWords(codes, Words<2>{{LoadBytes(made, 4), LoadBytes(made + 4, 4)}});
             } else {
               for (uint32_t i = 0; i < columns; ++i) codes[i] = made[i];
             }
           });
}

inline bool CellsAligned(const DeviceRun& run) {
  return IsMultiple(run.from.data, run.from.data_row_bytes, LoadAlignment(run.from.codec)) &&
         IsMultiple(run.codes, run.code_row_bytes, 8);
}

}  // namespace mimo::kernels::cuda
