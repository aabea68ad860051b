// A persistent grid walks the tiles of many bands.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/convert_tile.h"

namespace mimo::kernels::cuda {

// The last band that begins at or before the tile; ascending first_tile, the first 0.
__device__ inline const DeviceBand& BandOf(const DeviceBand* bands, uint32_t count, uint64_t tile) {
  return bands[LastBefore(count, tile, [&](uint32_t i) { return bands[i].first_tile; })];
}

// Called by all threads of a block; counters: kCounters sums, added to.
__device__ inline void AddTally(const Tally& tally, unsigned long long* counters) {
  const uint32_t mine[kCounters] = {tally.nan_codes, tally.infinities,   tally.zero_scale_codes, tally.bad_scales,
                                    tally.overflows, tally.exact_blocks, tally.kept_blocks};
  const uint32_t any = mine[0] | mine[1] | mine[2] | mine[3] | mine[4] | mine[5] | mine[6];
  if (__syncthreads_or(static_cast<int>(any != 0)) == 0) return;
#pragma unroll
  for (int i = 0; i < kCounters; ++i) {
    const uint32_t sum = __reduce_add_sync(0xFFFFFFFFu, mine[i]);
    if (threadIdx.x % 32 == 0 && sum != 0) atomicAdd(&counters[i], static_cast<unsigned long long>(sum));
  }
}

// bands: ascending first_tile, the first 0. counters: kCounters sums, added to.
template <Codec kFrom, Codec kTo>
__global__ void __launch_bounds__(kThreads)
    ConvertKernel(const DeviceBand* bands, uint32_t band_count, uint64_t tiles, unsigned long long* counters) {
  Tally tally;
  for (uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const DeviceBand& band = BandOf(bands, band_count, tile);
    ConvertTile<kFrom, kTo>(band, tile - band.first_tile, threadIdx.x, &tally);
  }
  AddTally(tally, counters);
}

}  // namespace mimo::kernels::cuda
