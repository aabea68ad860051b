// Every CUDA call goes through MIMO_CUDA_TRY: on failure the enclosing function returns false and says which call it
// was.
#pragma once

#include <cuda_runtime.h>

#include <string>

namespace mimo::kernels::cuda {

inline bool Succeeded(cudaError_t status, const char* call, std::string* error) {
  if (status == cudaSuccess) return true;
  if (error != nullptr) *error = std::string("CUDA: ") + call + ": " + cudaGetErrorString(status);
  return false;
}

}  // namespace mimo::kernels::cuda

#define MIMO_CUDA_TRY(call) \
  if (!::mimo::kernels::cuda::Succeeded((call), #call, error)) return false
