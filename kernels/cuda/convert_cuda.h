// The same operations on a GPU. Built when a CUDA compiler is found; otherwise kernels/cuda/convert_none.cc answers "no
// device". Pointers in Band are HOST pointers here; the functions stage them through pinned buffers of their own.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "kernels/convert.h"

namespace mimo::kernels {

int CudaDeviceCount();  // 0 when built without CUDA, or no driver or no device

// A device and its buffers; one per worker thread. Not thread-safe.
class CudaConverter {
 public:
  // Returns null and sets `error` when the device cannot be used. `staging_bytes` bounds pinned and device memory each.
  static std::unique_ptr<CudaConverter> Create(int device, uint64_t staging_bytes, std::string* error);
  virtual ~CudaConverter() = default;
  // As ConvertBands. False and `error` set on a device failure; targets are then unspecified.
  virtual bool Convert(std::span<const Band> bands, Anomalies* anomalies, std::string* error) = 0;
  // The kernels alone: bands hold DEVICE pointers (column_edges too). For benchmarks and tests. `seconds` is device
  // time.
  virtual bool ConvertOnDevice(std::span<const Band> bands, Anomalies* anomalies, double* seconds,
                               std::string* error) = 0;
  virtual std::string name() const = 0;
};

}  // namespace mimo::kernels
