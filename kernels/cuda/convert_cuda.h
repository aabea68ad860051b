// The same operations on a GPU. Built when a CUDA compiler is found; otherwise kernels/cuda/convert_none.cc answers "no
// device". Pointers in Band, SourceRows and EncodeJob are HOST pointers here, staged through pinned buffers, except for
// the functions that end in OnDevice.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "kernels/convert.h"
#include "kernels/encode.h"

namespace mimo::kernels {

int CudaDeviceCount();  // 0 when built without CUDA, or no driver or no device

// A device and its buffers; one per worker thread. Not thread-safe.
class CudaConverter {
 public:
  // Returns null and sets `error` when the device cannot be used. `staging_bytes` bounds pinned and device memory each.
  static std::unique_ptr<CudaConverter> Create(int device, uint64_t staging_bytes, std::string* error);
  virtual ~CudaConverter() = default;
  // As ConvertBands, MeasureRows and EncodeRows. False and `error` set on a device failure; targets are then
  // unspecified.
  virtual bool Convert(std::span<const Band> bands, Anomalies* anomalies, std::string* error) = 0;
  virtual bool Measure(std::span<const SourceRows> rows, uint64_t cols, bool via_bf16, Measured* measured,
                       std::string* error) = 0;
  // EncodeJob::errors are summed on the CPU, from the source and the written codes. A job of which one row (one row of
  // blocks for block FP8) does not fit in half the staging is encoded on the CPU.
  virtual bool Encode(const EncodeJob& job, EncodeCounts* counts, std::string* error) = 0;
  // The kernels alone: all arrays, column_edges too, are DEVICE pointers. For benchmarks and tests. `seconds` is device
  // time. EncodeJob::errors must be null.
  virtual bool ConvertOnDevice(std::span<const Band> bands, Anomalies* anomalies, double* seconds,
                               std::string* error) = 0;
  virtual bool MeasureOnDevice(std::span<const SourceRows> rows, uint64_t cols, bool via_bf16, Measured* measured,
                               double* seconds, std::string* error) = 0;
  virtual bool EncodeOnDevice(const EncodeJob& job, EncodeCounts* counts, double* seconds, std::string* error) = 0;
  virtual std::string name() const = 0;
};

}  // namespace mimo::kernels
