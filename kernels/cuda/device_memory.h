// Memory on a GPU for tests and benchmarks, without CUDA headers. Without CUDA every call fails.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace mimo::kernels {

class DeviceBuffer {
 public:
  // On device `device`, which becomes current. Null and `error` on failure.
  static std::unique_ptr<DeviceBuffer> Create(int device, uint64_t bytes, std::string* error);
  virtual ~DeviceBuffer() = default;
  virtual uint8_t* data() const = 0;  // a device pointer, 256-byte aligned
  virtual bool Upload(const void* host, uint64_t bytes, std::string* error) = 0;
  virtual bool Download(void* host, uint64_t bytes, std::string* error) const = 0;
  // Copies the first `bytes` of another buffer here; `seconds` is device time.
  virtual bool CopyFrom(const DeviceBuffer& from, uint64_t bytes, double* seconds, std::string* error) = 0;
};

}  // namespace mimo::kernels
