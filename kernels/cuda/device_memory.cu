#include "kernels/cuda/check.h"
#include "kernels/cuda/device_memory.h"

namespace mimo::kernels {
namespace {

class CudaBuffer : public DeviceBuffer {
 public:
  ~CudaBuffer() override {
    if (start_ != nullptr) (void)cudaEventDestroy(start_);
    if (stop_ != nullptr) (void)cudaEventDestroy(stop_);
    if (data_ != nullptr) (void)cudaFree(data_);
  }

  bool Init(int device, uint64_t bytes, std::string* error) {
    MIMO_CUDA_TRY(cudaSetDevice(device));
    MIMO_CUDA_TRY(cudaMalloc(&data_, bytes));
    MIMO_CUDA_TRY(cudaEventCreate(&start_));
    MIMO_CUDA_TRY(cudaEventCreate(&stop_));
    return true;
  }

  uint8_t* data() const override { return static_cast<uint8_t*>(data_); }

  bool Upload(const void* host, uint64_t bytes, std::string* error) override {
    MIMO_CUDA_TRY(cudaMemcpy(data_, host, bytes, cudaMemcpyHostToDevice));
    return true;
  }

  bool Download(void* host, uint64_t bytes, std::string* error) const override {
    MIMO_CUDA_TRY(cudaMemcpy(host, data_, bytes, cudaMemcpyDeviceToHost));
    return true;
  }

  bool CopyFrom(const DeviceBuffer& from, uint64_t bytes, double* seconds, std::string* error) override {
    MIMO_CUDA_TRY(cudaEventRecord(start_));
    MIMO_CUDA_TRY(cudaMemcpyAsync(data_, from.data(), bytes, cudaMemcpyDeviceToDevice));
    MIMO_CUDA_TRY(cudaEventRecord(stop_));
    MIMO_CUDA_TRY(cudaEventSynchronize(stop_));
    float milliseconds = 0;
    MIMO_CUDA_TRY(cudaEventElapsedTime(&milliseconds, start_, stop_));
    *seconds = milliseconds / 1000.0;
    return true;
  }

 private:
  void* data_ = nullptr;
  cudaEvent_t start_ = nullptr;
  cudaEvent_t stop_ = nullptr;
};

}  // namespace

std::unique_ptr<DeviceBuffer> DeviceBuffer::Create(int device, uint64_t bytes, std::string* error) {
  auto buffer = std::make_unique<CudaBuffer>();
  if (!buffer->Init(device, bytes > 0 ? bytes : 1, error)) return nullptr;
  return buffer;
}

}  // namespace mimo::kernels
