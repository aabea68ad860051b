// Runs of encoders and of measuring to launches: grouped by source codec, one launch per codec.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/encode_tile.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/measure_tile.h"

namespace mimo::kernels::cuda {

// The source of a run: all columns of rows [row, row + rows) of `from`, which are at the given places of the device.
struct DeviceSource {
  const uint8_t* data = nullptr;
  uint64_t row_bytes = 0;
  const uint8_t* scales = nullptr;
  uint64_t scale_row_bytes = 0;
  const uint32_t* edges = nullptr;
};
DeviceBand BandFrom(const SourceRows& from, uint64_t row, uint64_t rows, uint64_t cols, const DeviceSource& at);
// All rows, which are on the device as they are.
DeviceBand ResidentBand(const SourceRows& rows, uint64_t cols);

// Sorts (stable), aligns, numbers the tiles of each group and returns the groups. For all codecs but block FP8.
std::vector<Group> GroupRuns(const Encoding& encoding, std::vector<DeviceRun>* runs);
// For block FP8, whose runs stay in order.
void AlignCells(std::vector<DeviceRun>* runs);

// runs, bands: device memory, in the order that grouping left them. counters: device memory, kCounters sums.
bool LaunchEncode(const std::vector<Group>& groups, const DeviceRun* runs, const EncodeParams& params,
                  unsigned long long* counters, int multiprocessors, cudaStream_t stream, std::string* error);
// runs: ascending first_row without gaps, together `rows` rows; all have the same `scales`.
bool LaunchCells(const DeviceRun* runs, uint32_t run_count, uint64_t rows, uint64_t cols, const EncodeParams& params,
                 unsigned long long* counters, int multiprocessors, cudaStream_t stream, std::string* error);
bool LaunchMeasure(const std::vector<Group>& groups, const DeviceBand* bands, bool via_bf16, MeasureTally* measured,
                   int multiprocessors, cudaStream_t stream, std::string* error);

}  // namespace mimo::kernels::cuda
