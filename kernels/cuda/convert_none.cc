// Built without CUDA: no device.
#include "kernels/cuda/convert_cuda.h"
#include "kernels/cuda/device_memory.h"

namespace mimo::kernels {
namespace {

constexpr char kNone[] = "this build has no CUDA support";

}  // namespace

int CudaDeviceCount() {
  return 0;
}

std::unique_ptr<CudaConverter> CudaConverter::Create(int, uint64_t, std::string* error) {
  if (error != nullptr) *error = kNone;
  return nullptr;
}

std::unique_ptr<DeviceBuffer> DeviceBuffer::Create(int, uint64_t, std::string* error) {
  if (error != nullptr) *error = kNone;
  return nullptr;
}

}  // namespace mimo::kernels
