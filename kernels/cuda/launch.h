// Bands to launches: grouped by codecs, one launch per group.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/cuda/check.h"
#include "kernels/cuda/convert_tile.h"

namespace mimo::kernels::cuda {

// Bands, or runs, that one launch takes, in sorted order.
struct Group {
  Codec from;
  Codec to;
  uint32_t first = 0;
  uint32_t count = 0;
  uint64_t tiles = 0;
};

// Adds item `i` of a sorted list, with so many tiles, to the groups, and numbers the tiles of its band.
void AddToGroups(uint32_t i, uint64_t tiles, DeviceBand* band, std::vector<Group>* groups);
// Sorts by codecs (stable), shapes the tiles of the bands and returns the groups.
std::vector<Group> GroupBands(std::vector<DeviceBand>* bands);

// bands: device memory, in the order GroupBands left them. counters: device memory, kCounters sums.
bool Launch(const std::vector<Group>& groups, const DeviceBand* bands, unsigned long long* counters,
            int multiprocessors, cudaStream_t stream, std::string* error);

// As many blocks as run at once, or as there is work for.
template <class Function>
bool BlocksFor(Function function, uint64_t work, int multiprocessors, unsigned* blocks, std::string* error) {
  int per_multiprocessor = 0;
  MIMO_CUDA_TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, function, kThreads, 0));
  const uint64_t resident =
      static_cast<uint64_t>(std::max(per_multiprocessor, 1)) * static_cast<uint64_t>(multiprocessors);
  *blocks = static_cast<unsigned>(std::min(work, resident));
  return true;
}

// kernel_of(std::integral_constant<Codec, codec>()): the kernel of a source.
template <class KernelOf>
auto KernelFrom(Codec codec, const KernelOf& kernel_of) {
  switch (codec) {
    case Codec::kFp32:
      return kernel_of(std::integral_constant<Codec, Codec::kFp32>());
    case Codec::kFp16:
      return kernel_of(std::integral_constant<Codec, Codec::kFp16>());
    case Codec::kFp8Block:
      return kernel_of(std::integral_constant<Codec, Codec::kFp8Block>());
    case Codec::kMxfp4:
      return kernel_of(std::integral_constant<Codec, Codec::kMxfp4>());
    case Codec::kMxfp8:
      return kernel_of(std::integral_constant<Codec, Codec::kMxfp8>());
    case Codec::kNvfp4:
      return kernel_of(std::integral_constant<Codec, Codec::kNvfp4>());
    case Codec::kBf16:
      break;
  }
  return kernel_of(std::integral_constant<Codec, Codec::kBf16>());
}

}  // namespace mimo::kernels::cuda
