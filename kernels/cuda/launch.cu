#include <algorithm>

#include "kernels/cuda/check.h"
#include "kernels/cuda/convert_kernel.cuh"
#include "kernels/cuda/launch.h"

namespace mimo::kernels::cuda {
namespace {

using Kernel = void (*)(const DeviceBand*, uint32_t, uint64_t, unsigned long long*);

template <Codec kFrom>
Kernel KernelTo(Codec to) {
  switch (to) {
    case Codec::kFp32:
      return ConvertKernel<kFrom, Codec::kFp32>;
    case Codec::kFp16:
      return ConvertKernel<kFrom, Codec::kFp16>;
    case Codec::kBf16:
    case Codec::kFp8Block:  // no target of a conversion: convert.h
    case Codec::kMxfp4:
    case Codec::kMxfp8:
    case Codec::kNvfp4:
      break;
  }
  return ConvertKernel<kFrom, Codec::kBf16>;
}

Kernel KernelFor(Codec from, Codec to) {
  switch (from) {
    case Codec::kFp32:
      return KernelTo<Codec::kFp32>(to);
    case Codec::kFp16:
      return KernelTo<Codec::kFp16>(to);
    case Codec::kFp8Block:
      return KernelTo<Codec::kFp8Block>(to);
    case Codec::kMxfp4:
      return KernelTo<Codec::kMxfp4>(to);
    case Codec::kMxfp8:
      return KernelTo<Codec::kMxfp8>(to);
    case Codec::kNvfp4:
      return KernelTo<Codec::kNvfp4>(to);
    case Codec::kBf16:
      break;
  }
  return KernelTo<Codec::kBf16>(to);
}

}  // namespace

std::vector<Group> GroupByPair(std::vector<PairedBand>* bands) {
  std::stable_sort(bands->begin(), bands->end(), [](const PairedBand& a, const PairedBand& b) {
    return a.from != b.from ? a.from < b.from : a.to < b.to;
  });
  std::vector<Group> groups;
  for (uint32_t i = 0; i < bands->size(); ++i) {
    PairedBand& paired = (*bands)[i];
    if (groups.empty() || groups.back().from != paired.from || groups.back().to != paired.to) {
      groups.push_back({paired.from, paired.to, i, 0, 0});
    }
    Group& group = groups.back();
    paired.band.first_tile = group.tiles;
    ++group.count;
    group.tiles += TileCount(paired.band);
  }
  return groups;
}

bool Launch(const std::vector<Group>& groups, const DeviceBand* bands, unsigned long long* counters,
            int multiprocessors, cudaStream_t stream, std::string* error) {
  for (const Group& group : groups) {
    const Kernel kernel = KernelFor(group.from, group.to);
    int per_multiprocessor = 0;
    MIMO_CUDA_TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, kernel, kThreads, 0));
    const uint64_t resident =
        static_cast<uint64_t>(std::max(per_multiprocessor, 1)) * static_cast<uint64_t>(multiprocessors);
    const unsigned blocks = static_cast<unsigned>(std::min(group.tiles, resident));
    kernel<<<blocks, kThreads, 0, stream>>>(bands + group.first, group.count, group.tiles, counters);
    MIMO_CUDA_TRY(cudaGetLastError());
  }
  return true;
}

}  // namespace mimo::kernels::cuda
