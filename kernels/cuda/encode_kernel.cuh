// Grids over the tiles of many runs, over the cells of a job, and over what is to be measured.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/cell_tile.h"
#include "kernels/cuda/convert_kernel.cuh"
#include "kernels/cuda/measure_tile.h"
#include "kernels/cuda/nibble_table.h"

namespace mimo::kernels::cuda {

// As BandOf.
__device__ inline const DeviceRun& RunOf(const DeviceRun* runs, uint32_t count, uint64_t tile) {
  return runs[LastBefore(count, tile, [&](uint32_t i) { return runs[i].from.first_tile; })];
}

// Blocks per multiprocessor that the registers must leave room for: what is rare may spill, what is usual does not.
constexpr int kTableBlocks = 4;
template <GroupTarget kTo>
constexpr int kEncodeBlocks = kTo == GroupTarget::kNvfp4Best ? 2 : 3;

template <Codec kFrom, GroupTarget kTo>
__global__ void __launch_bounds__(kThreads, kEncodeBlocks<kTo>)
    EncodeKernel(const DeviceRun* runs, uint32_t run_count, uint64_t tiles, EncodeParams params,
                 unsigned long long* counters) {
  Tally tally;
  for (uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const DeviceRun& run = RunOf(runs, run_count, tile);
    EncodeTile<kFrom, kTo>(run, params, tile - run.from.first_tile, threadIdx.x, &tally);
  }
  AddTally(tally, counters);
}

template <GroupTarget kTo>
__global__ void __launch_bounds__(kThreads, kTableBlocks)
    EncodeTableKernel(const DeviceRun* runs, uint32_t run_count, uint64_t tiles, EncodeParams params,
                      unsigned long long* counters) {
  __shared__ NibbleTables tables;
  Tally tally;
  for (uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const DeviceRun& run = RunOf(runs, run_count, tile);
    FillTables<kTo>(run, params, tile - run.from.first_tile, threadIdx.x, &tables);
    __syncthreads();
    EncodeTableTile<kTo>(run, params, tile - run.from.first_tile, threadIdx.x, tables, &tally);
    __syncthreads();
  }
  AddTally(tally, counters);
}

template <int kUnused>
__global__ void __launch_bounds__(kThreads)
    EncodeCellsKernel(CellJob job, uint64_t cells, unsigned long long* counters) {
  __shared__ CellState state;
  Tally tally;
  for (uint64_t cell = blockIdx.x; cell < cells; cell += gridDim.x) {
    if (threadIdx.x == 0) state = EmptyCell();
    __syncthreads();
    CellState mine = EmptyCell();
    MeasureCell(job, cell, threadIdx.x, &mine, &tally);
    mine.amax = __reduce_max_sync(0xFFFFFFFFu, mine.amax);
    mine.not_mxfp4 = __reduce_max_sync(0xFFFFFFFFu, mine.not_mxfp4);
    mine.least = __reduce_min_sync(0xFFFFFFFFu, mine.least);
    mine.largest = __reduce_max_sync(0xFFFFFFFFu, mine.largest);
    mine.not_finite = __reduce_max_sync(0xFFFFFFFFu, mine.not_finite);
    if (threadIdx.x % 32 == 0) MergeCell(mine, &state);
    __syncthreads();
    if (threadIdx.x == 0) DecideCell(job, cell, &state, &tally);
    __syncthreads();
    EncodeCell(job, cell, threadIdx.x, state);
    __syncthreads();
  }
  AddTally(tally, counters);
}

template <Codec kFrom>
__global__ void __launch_bounds__(kThreads)
    MeasureKernel(const DeviceBand* bands, uint32_t band_count, uint64_t tiles, bool via_bf16, MeasureTally* measured) {
  MeasureTally tally;
  for (uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const DeviceBand& band = BandOf(bands, band_count, tile);
    MeasureTile<kFrom>(band, tile - band.first_tile, threadIdx.x, via_bf16, &tally);
  }
  const uint32_t amax = __reduce_max_sync(0xFFFFFFFFu, tally.amax);
  const uint32_t least = __reduce_min_sync(0xFFFFFFFFu, tally.least);
  const uint32_t largest = __reduce_max_sync(0xFFFFFFFFu, tally.largest);
  if (threadIdx.x % 32 != 0) return;
  MergeMax(&measured->amax, amax);
  MergeMin(&measured->least, least);
  MergeMax(&measured->largest, largest);
}

}  // namespace mimo::kernels::cuda
