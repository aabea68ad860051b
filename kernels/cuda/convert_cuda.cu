// Host arrays on the GPU: gathered into pinned memory, copied, converted or encoded, copied back and scattered. Two
// slots, each with a stream: while one is on the device, the host works on the other.
#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "kernels/cuda/check.h"
#include "kernels/cuda/convert_batch.h"
#include "kernels/cuda/convert_cuda.h"
#include "kernels/cuda/device_scratch.h"
#include "kernels/cuda/encode_batch.h"
#include "kernels/cuda/encode_launch.h"

namespace mimo::kernels {
namespace {

using cuda::Columns;
using cuda::ConvertBatch;
using cuda::Cost;
using cuda::Counters;
using cuda::DeviceBand;
using cuda::Group;

constexpr uint64_t kMinStaging = uint64_t{64} << 10;

class Converter : public CudaConverter {
 public:
  bool Init(int device, uint64_t staging_bytes, std::string* error) {
    if (staging_bytes < kMinStaging) {
      if (error != nullptr) *error = "CUDA: staging of at least " + std::to_string(kMinStaging) + " bytes is needed";
      return false;
    }
    device_ = device;
    MIMO_CUDA_TRY(cudaSetDevice(device));
    cudaDeviceProp properties;
    MIMO_CUDA_TRY(cudaGetDeviceProperties(&properties, device));
    name_ = properties.name;
    multiprocessors_ = properties.multiProcessorCount;
    if (!scratch_.Init(error)) return false;
    for (cuda::StagingSlot& slot : slots_) {
      if (!slot.Init(staging_bytes / 2, error)) return false;
    }
    return true;
  }

  bool Convert(std::span<const Band> bands, Anomalies* anomalies, std::string* error) override {
    *anomalies = {};
    MIMO_CUDA_TRY(cudaSetDevice(device_));
    current_ = 0;
    bool ok = true;
    for (const Band& band : bands) ok = ok && AddBand(band, anomalies, error);
    ok = ok && batches_[current_].Start(multiprocessors_, error);
    ok = ok && batches_[1 - current_].Finish(anomalies, error) && batches_[current_].Finish(anomalies, error);
    if (!ok) {
      for (ConvertBatch& batch : batches_) batch.Abandon();
    }
    return ok;
  }

  bool ConvertOnDevice(std::span<const Band> bands, Anomalies* anomalies, double* seconds,
                       std::string* error) override {
    *anomalies = {};
    *seconds = 0;
    MIMO_CUDA_TRY(cudaSetDevice(device_));
    std::vector<DeviceBand> descriptors;
    for (const Band& band : bands) {
      if (band.rows == 0 || band.cols == 0) continue;
      DeviceBand one = cuda::ResidentBand(
          {band.source, band.rows, band.column_edges, band.column_blocks, band.column_block}, band.cols);
      one.to = band.target.codec;
      one.out = static_cast<uint8_t*>(band.target.data);
      one.out_row_bytes = band.target.row_bytes;
      descriptors.push_back(one);
    }
    if (descriptors.empty()) return true;
    const std::vector<Group> groups = cuda::GroupBands(&descriptors);
    Counters counters{};
    if (!scratch_.Run(descriptors.data(), descriptors.size() * sizeof(DeviceBand), &counters, seconds, error,
                      [&](const uint8_t* at, unsigned long long* counts) {
                        return cuda::Launch(groups, reinterpret_cast<const DeviceBand*>(at), counts, multiprocessors_,
                                            nullptr, error);
                      })) {
      return false;
    }
    *anomalies = cuda::AnomaliesOf(counters);
    return true;
  }

  bool Measure(std::span<const SourceRows> rows, uint64_t cols, bool via_bf16, Measured* measured,
               std::string* error) override {
    MIMO_CUDA_TRY(cudaSetDevice(device_));
    return cuda::MeasureStaged(rows, cols, via_bf16, Slots(), multiprocessors_, measured, error);
  }

  bool MeasureOnDevice(std::span<const SourceRows> rows, uint64_t cols, bool via_bf16, Measured* measured,
                       double* seconds, std::string* error) override {
    MIMO_CUDA_TRY(cudaSetDevice(device_));
    return cuda::MeasureResident(rows, cols, via_bf16, &scratch_, multiprocessors_, measured, seconds, error);
  }

  bool Encode(const EncodeJob& job, EncodeCounts* counts, std::string* error) override {
    MIMO_CUDA_TRY(cudaSetDevice(device_));
    return cuda::EncodeStaged(job, Slots(), multiprocessors_, counts, error);
  }

  bool EncodeOnDevice(const EncodeJob& job, EncodeCounts* counts, double* seconds, std::string* error) override {
    MIMO_CUDA_TRY(cudaSetDevice(device_));
    return cuda::EncodeResident(job, &scratch_, multiprocessors_, counts, seconds, error);
  }

  std::string name() const override { return name_; }

 private:
  std::array<cuda::StagingSlot*, 2> Slots() { return {&slots_[0], &slots_[1]}; }

  bool AddBand(const Band& band, Anomalies* anomalies, std::string* error) {
    if (band.rows == 0 || band.cols == 0) return true;
    uint64_t width = band.cols;
    const uint64_t capacity = slots_[0].empty_room();
    if (cuda::CostOf(band, cuda::ColumnsOf(band, 0, width)).Of(1) > capacity) {
      // One row is too long: cut columns as well, at groups of any codec. At most 4 + 4 bytes per element and 8 per
      // block of at least one column, which leaves room for padding.
      width = capacity / 20 / 32 * 32;
    }
    for (uint64_t begin = 0; begin < band.cols; begin += width) {
      const Columns columns = cuda::ColumnsOf(band, begin, std::min(band.cols, begin + width));
      const Cost cost = cuda::CostOf(band, columns);
      const uint64_t per_row = cost.in_row + cost.scale_row + cost.out_row;
      for (uint64_t row = 0; row < band.rows;) {
        if (cost.Of(1) > batches_[current_].room() && !Next(anomalies, error)) return false;
        const uint64_t room = batches_[current_].room();
        uint64_t rows = std::min(band.rows - row, std::max<uint64_t>((room - cost.fixed) / per_row, 1));
        while (rows > 1 && cost.Of(rows) > room) --rows;  // padding
        batches_[current_].Add(band, columns, row, rows);
        row += rows;
      }
    }
    return true;
  }

  // Starts the current batch and makes the other one ready.
  bool Next(Anomalies* anomalies, std::string* error) {
    if (!batches_[current_].Start(multiprocessors_, error)) return false;
    current_ = 1 - current_;
    return batches_[current_].Finish(anomalies, error);
  }

  int device_ = 0;
  int multiprocessors_ = 1;
  int current_ = 0;
  std::string name_;
  std::array<cuda::StagingSlot, 2> slots_;
  std::array<ConvertBatch, 2> batches_ = {ConvertBatch(&slots_[0]), ConvertBatch(&slots_[1])};
  cuda::DeviceScratch scratch_;
};

}  // namespace

int CudaDeviceCount() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    (void)cudaGetLastError();  // no driver or no device is an answer, not an error of a later call
    return 0;
  }
  return count;
}

std::unique_ptr<CudaConverter> CudaConverter::Create(int device, uint64_t staging_bytes, std::string* error) {
  auto converter = std::make_unique<Converter>();
  if (!converter->Init(device, staging_bytes, error)) return nullptr;
  return converter;
}

}  // namespace mimo::kernels
