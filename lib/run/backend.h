// Where bulk conversion runs. Every backend gives the same bytes; re-quantization of straddling cells stays on the CPU.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "kernels/encode.h"
#include "lib/base/status.h"
#include "lib/run/options.h"

namespace mimo {

// One per worker; not thread-safe.
class Backend {
 public:
  virtual ~Backend() = default;
  // kDevice when the device fails; the targets are then unspecified.
  virtual Result<kernels::Anomalies> Convert(std::span<const kernels::Band> bands) = 0;
  virtual Result<kernels::Measured> Measure(std::span<const kernels::SourceRows> rows, uint64_t cols,
                                            bool via_bf16) = 0;
  virtual Result<kernels::EncodeCounts> Encode(const kernels::EncodeJob& job) = 0;
  virtual std::string name() const = 0;
};

// kUsage when kCuda is asked for and there is no device; kDevice when it is there but cannot be used. kAuto takes a GPU
// that works, else the CPU. `memory_bytes` bounds the memory that a device backend may pin.
Result<std::unique_ptr<Backend>> MakeBackend(DeviceChoice choice, int cuda_device, uint64_t memory_bytes);

}  // namespace mimo
