#include "kernels/cuda/encode_kernel.cuh"
#include "kernels/cuda/encode_launch.h"

namespace mimo::kernels::cuda {
namespace {

using EncodeFunction = void (*)(const DeviceRun*, uint32_t, uint64_t, EncodeParams, unsigned long long*);
using MeasureFunction = void (*)(const DeviceBand*, uint32_t, uint64_t, bool, MeasureTally*);

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

DeviceBand ResidentBand(const SourceRows& rows, uint64_t cols) {
  const Source& source = rows.source;
  return BandFrom(rows, 0, rows.rows, cols,
                  {static_cast<const uint8_t*>(source.data), source.row_bytes,
                   static_cast<const uint8_t*>(source.scales), source.scale_row_bytes, rows.column_edges});
}

std::vector<Group> GroupRuns(const Encoding& encoding, std::vector<DeviceRun>* runs) {
  std::stable_sort(runs->begin(), runs->end(),
                   [](const DeviceRun& a, const DeviceRun& b) { return a.from.codec < b.from.codec; });
  const GroupTarget to = TargetOf(encoding);
  std::vector<Group> groups;
  for (uint32_t i = 0; i < runs->size(); ++i) {
    DeviceRun& run = (*runs)[i];
    run.from.aligned = GroupsAligned(run, to);
    const uint64_t tiles =
        ByTable(run.from.codec, to) ? ShapeTableTiles(&run) : ShapeGroupTiles(GroupColumns(encoding), &run);
    AddToGroups(i, tiles, &run.from, &groups);
  }
  return groups;
}

void AlignCells(std::vector<DeviceRun>* runs) {
  for (DeviceRun& run : *runs) run.from.aligned = CellsAligned(run);
}

bool LaunchEncode(const std::vector<Group>& groups, const DeviceRun* runs, const EncodeParams& params,
                  unsigned long long* counters, int multiprocessors, cudaStream_t stream, std::string* error) {
  for (const Group& group : groups) {
    const GroupTarget to = TargetOf(params.encoding);
    const EncodeFunction kernel =
        KernelFrom(group.from, [&](auto from) { return EncoderTo<decltype(from)::value>(to); });
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

bool LaunchMeasure(const std::vector<Group>& groups, const DeviceBand* bands, bool via_bf16, MeasureTally* measured,
                   int multiprocessors, cudaStream_t stream, std::string* error) {
  for (const Group& group : groups) {
    const auto measurer = [](auto from) { return MeasureFunction{MeasureKernel<decltype(from)::value>}; };
    const MeasureFunction kernel = KernelFrom(group.from, measurer);
    unsigned blocks = 0;
    if (!BlocksFor(kernel, group.tiles, multiprocessors, &blocks, error)) return false;
    kernel<<<blocks, kThreads, 0, stream>>>(bands + group.first, group.count, group.tiles, via_bf16, measured);
    MIMO_CUDA_TRY(cudaGetLastError());
  }
  return true;
}

}  // namespace mimo::kernels::cuda
