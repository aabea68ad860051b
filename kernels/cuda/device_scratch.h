// Counters and descriptors of calls whose data is on the device already, and the time that their kernels take.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>

#include "kernels/cuda/check.h"
#include "kernels/cuda/staging.h"

namespace mimo::kernels::cuda {

class DeviceScratch {
 public:
  DeviceScratch() = default;
  DeviceScratch(const DeviceScratch&) = delete;
  DeviceScratch& operator=(const DeviceScratch&) = delete;
  ~DeviceScratch() {
    if (start_ != nullptr) (void)cudaEventDestroy(start_);
    if (stop_ != nullptr) (void)cudaEventDestroy(stop_);
    if (memory_ != nullptr) (void)cudaFree(memory_);
  }

  bool Init(std::string* error) {
    MIMO_CUDA_TRY(cudaEventCreate(&start_));
    MIMO_CUDA_TRY(cudaEventCreate(&stop_));
    return true;
  }

  // launch(descriptors, counters) -> bool, on the default stream; both pointers are device memory.
  template <typename Launch>
  bool Run(const void* descriptors, uint64_t bytes, Counters* counters, double* seconds, std::string* error,
           const Launch& launch) {
    if (kCounterBytes + bytes > bytes_) {
      if (memory_ != nullptr) MIMO_CUDA_TRY(cudaFree(memory_));
      memory_ = nullptr;
      bytes_ = 0;
      MIMO_CUDA_TRY(cudaMalloc(reinterpret_cast<void**>(&memory_), kCounterBytes + bytes));
      bytes_ = kCounterBytes + bytes;
    }
    MIMO_CUDA_TRY(cudaMemcpy(memory_, counters->data(), kCounterBytes, cudaMemcpyHostToDevice));
    MIMO_CUDA_TRY(cudaMemcpy(memory_ + kCounterBytes, descriptors, bytes, cudaMemcpyHostToDevice));
    MIMO_CUDA_TRY(cudaEventRecord(start_));
    if (!launch(memory_ + kCounterBytes, reinterpret_cast<unsigned long long*>(memory_))) return false;
    MIMO_CUDA_TRY(cudaEventRecord(stop_));
    MIMO_CUDA_TRY(cudaEventSynchronize(stop_));
    float milliseconds = 0;
    MIMO_CUDA_TRY(cudaEventElapsedTime(&milliseconds, start_, stop_));
    *seconds = milliseconds / 1000.0;
    MIMO_CUDA_TRY(cudaMemcpy(counters->data(), memory_, kCounterBytes, cudaMemcpyDeviceToHost));
    return true;
  }

 private:
  cudaEvent_t start_ = nullptr, stop_ = nullptr;
  uint8_t* memory_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace mimo::kernels::cuda
