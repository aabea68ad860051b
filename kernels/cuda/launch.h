// Bands to launches: grouped by codec pair, one launch per pair.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/convert_tile.h"

namespace mimo::kernels::cuda {

struct PairedBand {
  Codec from;
  Codec to;
  DeviceBand band;
};

struct Group {
  Codec from;
  Codec to;
  uint32_t first = 0;  // in the sorted bands
  uint32_t count = 0;
  uint64_t tiles = 0;
};

// Sorts by pair (stable), numbers the tiles of each group and returns the groups.
std::vector<Group> GroupByPair(std::vector<PairedBand>* bands);

// bands: device memory, in the order GroupByPair left them. counters: device memory, kCounters sums.
bool Launch(const std::vector<Group>& groups, const DeviceBand* bands, unsigned long long* counters,
            int multiprocessors, cudaStream_t stream, std::string* error);

}  // namespace mimo::kernels::cuda
