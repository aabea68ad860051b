// Host bands on the GPU: gathered into pinned memory, copied, converted, copied back and scattered. Two slots, each
// with a stream: while one is on the device, the host works on the other.
#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/cuda/check.h"
#include "kernels/cuda/convert_cuda.h"
#include "kernels/cuda/launch.h"

namespace mimo::kernels {
namespace {

using cuda::DeviceBand;
using cuda::Group;
using cuda::kCounters;
using cuda::PairedBand;

constexpr uint64_t kAlign = 16;  // of every array and row in the staging: vector loads and stores apply
constexpr uint64_t kMinStaging = uint64_t{64} << 10;
constexpr uint64_t kCounterBytes = 64;

uint64_t Aligned(uint64_t bytes) {
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

uint64_t RowBytes(Codec codec, uint64_t cols) {
  switch (codec) {
    case Codec::kFp32:
      return cols * 4;
    case Codec::kFp8Block:
      return cols;
    case Codec::kMxfp4:
      return (cols + 1) / 2;
    default:
      return cols * 2;
  }
}

// Columns [begin, end) of a band, with the blocks they touch.
struct Columns {
  uint64_t begin = 0, end = 0;
  uint64_t first_block = 0, blocks = 0;  // kFp8Block
  uint64_t count() const { return end - begin; }
};

Columns ColumnsOf(const Band& band, uint64_t begin, uint64_t end) {
  Columns columns{begin, end, 0, 0};
  if (band.source.codec != Codec::kFp8Block) return columns;
  if (band.column_edges == nullptr) {
    columns.first_block = begin / band.column_block;
    columns.blocks = (end + band.column_block - 1) / band.column_block - columns.first_block;
  } else {
    const uint32_t* edges = band.column_edges;
    const uint32_t* last = edges + band.column_blocks + 1;
    columns.first_block = static_cast<uint64_t>(std::upper_bound(edges, last, begin) - edges) - 1;
    const uint64_t stop = static_cast<uint64_t>(std::lower_bound(edges, last, end) - edges);
    columns.blocks = stop - columns.first_block;
  }
  return columns;
}

// Staging bytes of some columns: once, and for each row.
struct Cost {
  uint64_t fixed = 0;
  uint64_t in_row = 0, scale_row = 0, out_row = 0;
  uint64_t Of(uint64_t rows) const {
    return fixed + Aligned(rows * in_row) + Aligned(rows * scale_row) + Aligned(rows * out_row);
  }
};

Cost CostOf(const Band& band, const Columns& columns) {
  Cost cost;
  cost.in_row = Aligned(RowBytes(band.source.codec, columns.count()));
  cost.out_row = Aligned(RowBytes(band.target.codec, columns.count()));
  if (band.source.codec == Codec::kMxfp4) cost.scale_row = (columns.count() + 31) / 32;
  if (band.source.codec == Codec::kFp8Block) {
    cost.fixed = Aligned(columns.blocks * 4) + (band.column_edges != nullptr ? Aligned((columns.blocks + 1) * 4) : 0);
  }
  return cost;
}

void CopyRows(uint8_t* to, uint64_t to_stride, const uint8_t* from, uint64_t from_stride, uint64_t bytes,
              uint64_t rows) {
  if (to_stride == bytes && from_stride == bytes) {
    std::memcpy(to, from, bytes * rows);
    return;
  }
  for (uint64_t row = 0; row < rows; ++row) std::memcpy(to + row * to_stride, from + row * from_stride, bytes);
}

// Half of the staging: pinned host memory and device memory with the same layout,
//   counters | descriptors | inputs -> ... <- outputs
// so that what goes up and what comes down are one range each.
class Slot {
 public:
  ~Slot() {
    if (stream_ != nullptr) {
      (void)cudaStreamSynchronize(stream_);
      (void)cudaStreamDestroy(stream_);
    }
    if (device_ != nullptr) (void)cudaFree(device_);
    if (host_ != nullptr) (void)cudaFreeHost(host_);
  }

  bool Init(uint64_t bytes, std::string* error) {
    capacity_ = bytes / kAlign * kAlign;
    max_bands_ = std::clamp<uint64_t>(capacity_ / 8 / sizeof(DeviceBand), 1, 4096);
    MIMO_CUDA_TRY(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    MIMO_CUDA_TRY(cudaMallocHost(reinterpret_cast<void**>(&host_), capacity_));
    MIMO_CUDA_TRY(cudaMalloc(reinterpret_cast<void**>(&device_), capacity_));
    Clear();
    return true;
  }

  uint64_t capacity() const { return capacity_ - InputStart(); }  // when empty
  uint64_t room() const { return bands_.size() < max_bands_ ? out_begin_ - in_end_ : 0; }

  // Gathers rows [row, row + rows) of some columns; CostOf(...).Of(rows) must fit in room().
  void Add(const Band& band, const Columns& columns, uint64_t row, uint64_t rows) {
    const Cost cost = CostOf(band, columns);
    PairedBand paired{band.source.codec, band.target.codec, {}};
    DeviceBand& out = paired.band;
    const auto* data = static_cast<const uint8_t*>(band.source.data) + row * band.source.row_bytes;
    const auto* scales = static_cast<const uint8_t*>(band.source.scales);
    const uint64_t in_bytes = RowBytes(band.source.codec, columns.count());
    out.data_row_bytes = cost.in_row;
    out.data = device_ + Take(rows * cost.in_row, [&](uint8_t* to) {
                 CopyRows(to, cost.in_row, data + RowBytes(band.source.codec, columns.begin), band.source.row_bytes,
                          in_bytes, rows);
               });
    if (band.source.codec == Codec::kMxfp4) {
      out.scale_row_bytes = cost.scale_row;
      out.scales = device_ + Take(rows * cost.scale_row, [&](uint8_t* to) {
                     CopyRows(to, cost.scale_row, scales + row * band.source.scale_row_bytes + columns.begin / 32,
                              band.source.scale_row_bytes, cost.scale_row, rows);
                   });
    } else if (band.source.codec == Codec::kFp8Block) {
      out.scales = device_ + Take(columns.blocks * 4, [&](uint8_t* to) {
                     std::memcpy(to, scales + columns.first_block * 4, columns.blocks * 4);
                   });
      if (band.column_edges != nullptr) {
        out.edges = reinterpret_cast<const uint32_t*>(device_ + Take((columns.blocks + 1) * 4, [&](uint8_t* to) {
                                                        std::memcpy(to, band.column_edges + columns.first_block,
                                                                    (columns.blocks + 1) * 4);
                                                      }));
      }
    }
    out_begin_ -= Aligned(rows * cost.out_row);
    out.out = device_ + out_begin_;
    out.out_row_bytes = cost.out_row;
    out.rows = rows;
    out.cols = columns.count();
    out.first_col = columns.begin;
    out.first_block = static_cast<uint32_t>(columns.first_block);
    out.blocks = static_cast<uint32_t>(columns.blocks);
    out.block_width = band.column_block;
    out.judge_scales = row == 0;
    cuda::ShapeTiles(paired.from, &out);
    bands_.push_back(paired);
    results_.push_back({static_cast<uint8_t*>(band.target.data) + row * band.target.row_bytes +
                            RowBytes(band.target.codec, columns.begin),
                        band.target.row_bytes, out_begin_, cost.out_row, RowBytes(band.target.codec, columns.count()),
                        rows});
  }

  // Sends what was gathered on its way.
  bool Start(int multiprocessors, std::string* error) {
    if (bands_.empty()) return true;
    const std::vector<Group> groups = cuda::GroupByPair(&bands_);
    std::memset(host_, 0, kCounterBytes);
    for (size_t i = 0; i < bands_.size(); ++i) {
      std::memcpy(host_ + kCounterBytes + i * sizeof(DeviceBand), &bands_[i].band, sizeof(DeviceBand));
    }
    MIMO_CUDA_TRY(cudaMemcpyAsync(device_, host_, in_end_, cudaMemcpyHostToDevice, stream_));
    auto* counters = reinterpret_cast<unsigned long long*>(device_);
    const auto* descriptors = reinterpret_cast<const DeviceBand*>(device_ + kCounterBytes);
    if (!cuda::Launch(groups, descriptors, counters, multiprocessors, stream_, error)) return false;
    MIMO_CUDA_TRY(cudaMemcpyAsync(host_, device_, kCounterBytes, cudaMemcpyDeviceToHost, stream_));
    MIMO_CUDA_TRY(cudaMemcpyAsync(host_ + out_begin_, device_ + out_begin_, capacity_ - out_begin_,
                                  cudaMemcpyDeviceToHost, stream_));
    return true;
  }

  // Waits for it, scatters the results and empties the slot.
  bool Finish(Anomalies* anomalies, std::string* error) {
    if (bands_.empty()) return true;
    MIMO_CUDA_TRY(cudaStreamSynchronize(stream_));
    std::array<uint64_t, kCounters> counted;
    std::memcpy(counted.data(), host_, sizeof(counted));
    *anomalies += Anomalies{counted[0], counted[1], counted[2], counted[3], counted[4]};
    for (const Result& r : results_) CopyRows(r.to, r.to_stride, host_ + r.at, r.stride, r.bytes, r.rows);
    Clear();
    return true;
  }

  // After a failure: nothing may still run on memory that is about to be reused.
  void Abandon() {
    (void)cudaStreamSynchronize(stream_);
    Clear();
  }

 private:
  struct Result {
    uint8_t* to;
    uint64_t to_stride;
    uint64_t at;
    uint64_t stride;
    uint64_t bytes;
    uint64_t rows;
  };

  uint64_t InputStart() const { return Aligned(kCounterBytes + max_bands_ * sizeof(DeviceBand)); }

  template <typename Fill>
  uint64_t Take(uint64_t bytes, Fill fill) {
    const uint64_t at = in_end_;
    fill(host_ + at);
    in_end_ += Aligned(bytes);
    return at;
  }

  void Clear() {
    bands_.clear();
    results_.clear();
    in_end_ = InputStart();
    out_begin_ = capacity_;
  }

  uint64_t capacity_ = 0, max_bands_ = 0;
  uint64_t in_end_ = 0, out_begin_ = 0;
  uint8_t* host_ = nullptr;
  uint8_t* device_ = nullptr;
  cudaStream_t stream_ = nullptr;
  std::vector<PairedBand> bands_;
  std::vector<Result> results_;
};

class Converter : public CudaConverter {
 public:
  ~Converter() override {
    if (start_ != nullptr) (void)cudaEventDestroy(start_);
    if (stop_ != nullptr) (void)cudaEventDestroy(stop_);
    if (bench_memory_ != nullptr) (void)cudaFree(bench_memory_);
  }

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
    MIMO_CUDA_TRY(cudaEventCreate(&start_));
    MIMO_CUDA_TRY(cudaEventCreate(&stop_));
    for (Slot& slot : slots_) {
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
    ok = ok && slots_[current_].Start(multiprocessors_, error);
    ok = ok && slots_[1 - current_].Finish(anomalies, error) && slots_[current_].Finish(anomalies, error);
    if (!ok) {
      for (Slot& slot : slots_) slot.Abandon();
    }
    return ok;
  }

  bool ConvertOnDevice(std::span<const Band> bands, Anomalies* anomalies, double* seconds,
                       std::string* error) override {
    *anomalies = {};
    *seconds = 0;
    MIMO_CUDA_TRY(cudaSetDevice(device_));
    std::vector<PairedBand> paired;
    for (const Band& band : bands) {
      if (band.rows == 0 || band.cols == 0) continue;
      PairedBand one{band.source.codec, band.target.codec, {}};
      one.band.data = static_cast<const uint8_t*>(band.source.data);
      one.band.data_row_bytes = band.source.row_bytes;
      one.band.scales = static_cast<const uint8_t*>(band.source.scales);
      one.band.scale_row_bytes = band.source.scale_row_bytes;
      one.band.out = static_cast<uint8_t*>(band.target.data);
      one.band.out_row_bytes = band.target.row_bytes;
      one.band.rows = band.rows;
      one.band.cols = band.cols;
      one.band.edges = band.column_edges;
      one.band.blocks = band.column_blocks;
      one.band.block_width = band.column_block;
      one.band.judge_scales = true;
      cuda::ShapeTiles(one.from, &one.band);
      paired.push_back(one);
    }
    if (paired.empty()) return true;
    const std::vector<Group> groups = cuda::GroupByPair(&paired);
    std::vector<DeviceBand> descriptors;
    for (const PairedBand& one : paired) descriptors.push_back(one.band);
    const uint64_t bytes = kCounterBytes + descriptors.size() * sizeof(DeviceBand);
    if (bytes > bench_bytes_) {
      if (bench_memory_ != nullptr) MIMO_CUDA_TRY(cudaFree(bench_memory_));
      bench_memory_ = nullptr;
      bench_bytes_ = 0;
      MIMO_CUDA_TRY(cudaMalloc(reinterpret_cast<void**>(&bench_memory_), bytes));
      bench_bytes_ = bytes;
    }
    MIMO_CUDA_TRY(cudaMemset(bench_memory_, 0, kCounterBytes));
    MIMO_CUDA_TRY(
        cudaMemcpy(bench_memory_ + kCounterBytes, descriptors.data(), bytes - kCounterBytes, cudaMemcpyHostToDevice));
    MIMO_CUDA_TRY(cudaEventRecord(start_));
    if (!cuda::Launch(groups, reinterpret_cast<const DeviceBand*>(bench_memory_ + kCounterBytes),
                      reinterpret_cast<unsigned long long*>(bench_memory_), multiprocessors_, nullptr, error)) {
      return false;
    }
    MIMO_CUDA_TRY(cudaEventRecord(stop_));
    MIMO_CUDA_TRY(cudaEventSynchronize(stop_));
    float milliseconds = 0;
    MIMO_CUDA_TRY(cudaEventElapsedTime(&milliseconds, start_, stop_));
    *seconds = milliseconds / 1000.0;
    std::array<uint64_t, kCounters> counted;
    MIMO_CUDA_TRY(cudaMemcpy(counted.data(), bench_memory_, sizeof(counted), cudaMemcpyDeviceToHost));
    *anomalies = Anomalies{counted[0], counted[1], counted[2], counted[3], counted[4]};
    return true;
  }

  std::string name() const override { return name_; }

 private:
  bool AddBand(const Band& band, Anomalies* anomalies, std::string* error) {
    if (band.rows == 0 || band.cols == 0) return true;
    uint64_t width = band.cols;
    const uint64_t capacity = slots_[0].capacity();
    if (CostOf(band, ColumnsOf(band, 0, width)).Of(1) > capacity) {
      // One row is too long: cut columns as well, at MXFP4 groups. At most 4 + 4 bytes per element and 8 per block of
      // at least one column, which leaves room for padding.
      width = capacity / 20 / 32 * 32;
    }
    for (uint64_t begin = 0; begin < band.cols; begin += width) {
      const Columns columns = ColumnsOf(band, begin, std::min(band.cols, begin + width));
      const Cost cost = CostOf(band, columns);
      const uint64_t per_row = cost.in_row + cost.scale_row + cost.out_row;
      for (uint64_t row = 0; row < band.rows;) {
        if (cost.Of(1) > slots_[current_].room() && !Next(anomalies, error)) return false;
        const uint64_t room = slots_[current_].room();
        uint64_t rows = std::min(band.rows - row, std::max<uint64_t>((room - cost.fixed) / per_row, 1));
        while (rows > 1 && cost.Of(rows) > room) --rows;  // padding
        slots_[current_].Add(band, columns, row, rows);
        row += rows;
      }
    }
    return true;
  }

  // Starts the current slot and makes the other one ready.
  bool Next(Anomalies* anomalies, std::string* error) {
    if (!slots_[current_].Start(multiprocessors_, error)) return false;
    current_ = 1 - current_;
    return slots_[current_].Finish(anomalies, error);
  }

  int device_ = 0;
  int multiprocessors_ = 1;
  int current_ = 0;
  std::string name_;
  std::array<Slot, 2> slots_;
  cudaEvent_t start_ = nullptr, stop_ = nullptr;
  uint8_t* bench_memory_ = nullptr;  // counters and descriptors of ConvertOnDevice
  uint64_t bench_bytes_ = 0;
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
