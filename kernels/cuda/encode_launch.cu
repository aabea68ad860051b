#include <algorithm>

#include "kernels/cuda/check.h"
#include "kernels/cuda/encode_kernel.cuh"
#include "kernels/cuda/encode_launch.h"

namespace mimo::kernels::cuda {
namespace {

using EncodeFunction = void (*)(const DeviceRun*, uint32_t, uint64_t, EncodeParams, unsigned long long*);
using MeasureFunction = void (*)(const DeviceBand*, uint32_t, uint64_t, bool, DeviceMeasured*);

// Whether groups of a codec go through nibble tables.
bool ByTable(Codec from, GroupTarget to) {
  return from == Codec::kFp8Block && (to == GroupTarget::kNvfp4Max || to == GroupTarget::kMxfp4);
}

template <Codec kFrom>
EncodeFunction EncoderTo(GroupTarget to) {
  if constexpr (kFrom == Codec::kFp8Block) {
    if (to == GroupTarget::kNvfp4Max) return EncodeTableKernel<GroupTarget::kNvfp4Max>;
    if (to == GroupTarget::kMxfp4) return EncodeTableKernel<GroupTarget::kMxfp4>;
  } else {
    if (to == GroupTarget::kNvfp4Max) return EncodeKernel<kFrom, GroupTarget::kNvfp4Max>;
    if (to == GroupTarget::kMxfp4) return EncodeKernel<kFrom, GroupTarget::kMxfp4>;
  }
  if (to == GroupTarget::kMxfp8) return EncodeKernel<kFrom, GroupTarget::kMxfp8>;
  return EncodeKernel<kFrom, GroupTarget::kNvfp4Best>;
}

EncodeFunction EncoderFor(Codec from, GroupTarget to) {
  switch (from) {
    case Codec::kFp32:
      return EncoderTo<Codec::kFp32>(to);
    case Codec::kFp16:
      return EncoderTo<Codec::kFp16>(to);
    case Codec::kFp8Block:
      return EncoderTo<Codec::kFp8Block>(to);
    case Codec::kMxfp4:
      return EncoderTo<Codec::kMxfp4>(to);
    case Codec::kMxfp8:
      return EncoderTo<Codec::kMxfp8>(to);
    case Codec::kNvfp4:
      return EncoderTo<Codec::kNvfp4>(to);
    case Codec::kBf16:
      break;
  }
  return EncoderTo<Codec::kBf16>(to);
}

MeasureFunction MeasurerFor(Codec from) {
  switch (from) {
    case Codec::kFp32:
      return MeasureKernel<Codec::kFp32>;
    case Codec::kFp16:
      return MeasureKernel<Codec::kFp16>;
    case Codec::kFp8Block:
      return MeasureKernel<Codec::kFp8Block>;
    case Codec::kMxfp4:
      return MeasureKernel<Codec::kMxfp4>;
    case Codec::kMxfp8:
      return MeasureKernel<Codec::kMxfp8>;
    case Codec::kNvfp4:
      return MeasureKernel<Codec::kNvfp4>;
    case Codec::kBf16:
      break;
  }
  return MeasureKernel<Codec::kBf16>;
}

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

// Adds item `i`, with so many tiles, to the groups; returns its first tile.
uint64_t AddToGroups(std::vector<CodecGroup>* groups, Codec from, uint32_t i, uint64_t tiles) {
  if (groups->empty() || groups->back().from != from) groups->push_back({from, i, 0, 0});
  CodecGroup& group = groups->back();
  const uint64_t first = group.tiles;
  ++group.count;
  group.tiles += tiles;
  return first;
}

}  // namespace

DeviceBand BandFrom(const SourceRows& from, uint64_t row, uint64_t rows, uint64_t cols, const DeviceSource& at) {
  DeviceBand band{};
  band.codec = from.source.codec;
  band.data = at.data;
  band.data_row_bytes = at.row_bytes;
  band.scales = at.scales;
  band.scale_row_bytes = at.scale_row_bytes;
  band.rows = rows;
  band.cols = cols;
  band.edges = at.edges;
  band.blocks = from.column_blocks;
  band.block_width = from.column_block;
  band.global = from.source.global;
  band.global_divides = from.source.global_divides;
  band.judge_scales = row == 0 && !from.continues;
  return band;
}

std::vector<CodecGroup> GroupRuns(const Encoding& encoding, std::vector<DeviceRun>* runs) {
  std::stable_sort(runs->begin(), runs->end(),
                   [](const DeviceRun& a, const DeviceRun& b) { return a.from.codec < b.from.codec; });
  const GroupTarget to = TargetOf(encoding);
  std::vector<CodecGroup> groups;
  for (uint32_t i = 0; i < runs->size(); ++i) {
    DeviceRun& run = (*runs)[i];
    run.from.aligned = GroupsAligned(run, to);
    const uint64_t tiles =
        ByTable(run.from.codec, to) ? ShapeTableTiles(&run) : ShapeGroupTiles(GroupColumns(encoding), &run);
    run.from.first_tile = AddToGroups(&groups, run.from.codec, i, tiles);
  }
  return groups;
}

void AlignCells(std::vector<DeviceRun>* runs) {
  for (DeviceRun& run : *runs) run.from.aligned = CellsAligned(run);
}

std::vector<CodecGroup> GroupBands(std::vector<DeviceBand>* bands) {
  std::stable_sort(bands->begin(), bands->end(),
                   [](const DeviceBand& a, const DeviceBand& b) { return a.codec < b.codec; });
  std::vector<CodecGroup> groups;
  for (uint32_t i = 0; i < bands->size(); ++i) {
    DeviceBand& band = (*bands)[i];
    ShapeTiles(band.codec, &band);
    band.first_tile = AddToGroups(&groups, band.codec, i, TileCount(band));
  }
  return groups;
}

bool LaunchEncode(const std::vector<CodecGroup>& groups, const DeviceRun* runs, const EncodeParams& params,
                  unsigned long long* counters, int multiprocessors, cudaStream_t stream, std::string* error) {
  for (const CodecGroup& group : groups) {
    const EncodeFunction kernel = EncoderFor(group.from, TargetOf(params.encoding));
    unsigned blocks = 0;
    if (!BlocksFor(kernel, group.tiles, multiprocessors, &blocks, error)) return false;
    kernel<<<blocks, kThreads, 0, stream>>>(runs + group.first, group.count, group.tiles, params, counters);
    MIMO_CUDA_TRY(cudaGetLastError());
  }
  return true;
}

bool LaunchCells(const DeviceRun* runs, uint32_t run_count, uint64_t rows, uint64_t cols, const EncodeParams& params,
                 unsigned long long* counters, int multiprocessors, cudaStream_t stream, std::string* error) {
  const Encoding& encoding = params.encoding;
  const CellJob job{runs, run_count, rows, cols, (cols + encoding.block_cols - 1) / encoding.block_cols, params};
  const uint64_t cells = (rows + encoding.block_rows - 1) / encoding.block_rows * job.cells_across;
  unsigned blocks = 0;
  if (!BlocksFor(EncodeCellsKernel<0>, cells, multiprocessors, &blocks, error)) return false;
  EncodeCellsKernel<0><<<blocks, kThreads, 0, stream>>>(job, cells, counters);
  MIMO_CUDA_TRY(cudaGetLastError());
  return true;
}

bool LaunchMeasure(const std::vector<CodecGroup>& groups, const DeviceBand* bands, bool via_bf16,
                   DeviceMeasured* measured, int multiprocessors, cudaStream_t stream, std::string* error) {
  for (const CodecGroup& group : groups) {
    const MeasureFunction kernel = MeasurerFor(group.from);
    unsigned blocks = 0;
    if (!BlocksFor(kernel, group.tiles, multiprocessors, &blocks, error)) return false;
    kernel<<<blocks, kThreads, 0, stream>>>(bands + group.first, group.count, group.tiles, via_bf16, measured);
    MIMO_CUDA_TRY(cudaGetLastError());
  }
  return true;
}

}  // namespace mimo::kernels::cuda
