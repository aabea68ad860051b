// Encoding and measuring of whole jobs: host arrays in batches of rows through two staging slots, or device arrays as
// they are.
#pragma once

#include <array>
#include <span>
#include <string>

#include "kernels/cuda/device_scratch.h"
#include "kernels/cuda/staging.h"
#include "kernels/encode.h"

namespace mimo::kernels::cuda {

using SlotPair = std::array<StagingSlot*, 2>;  // both empty, and again afterwards

bool MeasureStaged(std::span<const SourceRows> rows, uint64_t cols, bool via_bf16, const SlotPair& slots,
                   int multiprocessors, Measured* measured, std::string* error);
bool MeasureResident(std::span<const SourceRows> rows, uint64_t cols, bool via_bf16, DeviceScratch* scratch,
                     int multiprocessors, Measured* measured, double* seconds, std::string* error);
bool EncodeStaged(const EncodeJob& job, const SlotPair& slots, int multiprocessors, EncodeCounts* counts,
                  std::string* error);
bool EncodeResident(const EncodeJob& job, DeviceScratch* scratch, int multiprocessors, EncodeCounts* counts,
                    double* seconds, std::string* error);

}  // namespace mimo::kernels::cuda
