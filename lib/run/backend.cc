#include "lib/run/backend.h"

#include <algorithm>
#include <utility>

#include "kernels/cuda/convert_cuda.h"

namespace mimo {
namespace {

constexpr uint64_t kMaxStagingBytes = 64ull << 20;

class CpuBackend final : public Backend {
 public:
  Result<kernels::Anomalies> Convert(std::span<const kernels::Band> bands) override {
    return kernels::ConvertBands(bands, 1);  // the workers are the parallelism
  }
  Result<kernels::Measured> Measure(std::span<const kernels::SourceRows> rows, uint64_t cols, bool via_bf16) override {
    return kernels::MeasureRows(rows, cols, via_bf16);
  }
  Result<kernels::EncodeCounts> Encode(const kernels::EncodeJob& job) override { return kernels::EncodeRows(job); }
  std::string name() const override { return std::string("cpu (") + kernels::IsaName(kernels::BestIsa()) + ")"; }
};

Error GpuFailed(std::string found) {
  return DeviceError("the GPU failed")
      .Found(std::move(found))
      .Advice("run again with --resume, or with --resume --device cpu");
}

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(std::unique_ptr<kernels::CudaConverter> converter) : converter_(std::move(converter)) {}
  Result<kernels::Anomalies> Convert(std::span<const kernels::Band> bands) override {
    kernels::Anomalies anomalies;
    std::string error;
    if (!converter_->Convert(bands, &anomalies, &error)) return GpuFailed(std::move(error));
    return anomalies;
  }
  Result<kernels::Measured> Measure(std::span<const kernels::SourceRows> rows, uint64_t cols, bool via_bf16) override {
    kernels::Measured measured;
    std::string error;
    if (!converter_->Measure(rows, cols, via_bf16, &measured, &error)) return GpuFailed(std::move(error));
    return measured;
  }
  Result<kernels::EncodeCounts> Encode(const kernels::EncodeJob& job) override {
    kernels::EncodeCounts counts;
    std::string error;
    if (!converter_->Encode(job, &counts, &error)) return GpuFailed(std::move(error));
    return counts;
  }
  std::string name() const override { return converter_->name(); }

 private:
  const std::unique_ptr<kernels::CudaConverter> converter_;
};

}  // namespace

Result<std::unique_ptr<Backend>> MakeBackend(DeviceChoice choice, int cuda_device, uint64_t memory_bytes) {
  if (choice != DeviceChoice::kCpu) {
    const int devices = kernels::CudaDeviceCount();
    if (choice == DeviceChoice::kCuda && (cuda_device < 0 || cuda_device >= devices)) {
      return UsageError("there is no such GPU")
          .Expected("a device below " + std::to_string(devices))
          .Found("cuda:" + std::to_string(cuda_device))
          .Advice("use --device cpu, or a build with CUDA on a machine with a GPU");
    }
    if (devices > 0 && cuda_device < devices) {
      std::string error;
      const uint64_t staging = std::clamp<uint64_t>(memory_bytes, 1 << 20, kMaxStagingBytes);
      auto converter = kernels::CudaConverter::Create(cuda_device, staging, &error);
      if (converter != nullptr) return std::unique_ptr<Backend>(std::make_unique<CudaBackend>(std::move(converter)));
      if (choice == DeviceChoice::kCuda) return GpuFailed(std::move(error));
    }
  }
  return std::unique_ptr<Backend>(std::make_unique<CpuBackend>());
}

}  // namespace mimo
