#include <tuple>

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

}  // namespace

void AddToGroups(uint32_t i, uint64_t tiles, DeviceBand* band, std::vector<Group>* groups) {
  if (groups->empty() || groups->back().from != band->codec || groups->back().to != band->to) {
    groups->push_back({band->codec, band->to, i, 0, 0});
  }
  Group& group = groups->back();
  band->first_tile = group.tiles;
  ++group.count;
  group.tiles += tiles;
}

std::vector<Group> GroupBands(std::vector<DeviceBand>* bands) {
  std::stable_sort(bands->begin(), bands->end(), [](const DeviceBand& a, const DeviceBand& b) {
    return std::tie(a.codec, a.to) < std::tie(b.codec, b.to);
  });
  std::vector<Group> groups;
  for (uint32_t i = 0; i < bands->size(); ++i) {
    DeviceBand& band = (*bands)[i];
    ShapeTiles(band.codec, &band);
    AddToGroups(i, TileCount(band), &band, &groups);
  }
  return groups;
}

bool Launch(const std::vector<Group>& groups, const DeviceBand* bands, unsigned long long* counters,
            int multiprocessors, cudaStream_t stream, std::string* error) {
  for (const Group& group : groups) {
    const Kernel kernel = KernelFrom(group.from, [&](auto from) { return KernelTo<decltype(from)::value>(group.to); });
    unsigned blocks = 0;
    if (!BlocksFor(kernel, group.tiles, multiprocessors, &blocks, error)) return false;
    kernel<<<blocks, kThreads, 0, stream>>>(bands + group.first, group.count, group.tiles, counters);
    MIMO_CUDA_TRY(cudaGetLastError());
  }
  return true;
}

}  // namespace mimo::kernels::cuda
