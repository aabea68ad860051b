// Half of a converter's buffers: pinned host memory and device memory with the same layout, and a stream,
//   counters | descriptors | inputs -> ... <- outputs
// so that what goes up and what comes down are one range each.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/convert.h"
#include "kernels/cuda/source_tile.h"

namespace mimo::kernels::cuda {

constexpr uint64_t kAlign = 16;  // of every array and row in the staging: vector loads and stores apply
constexpr uint64_t kCounterBytes = 64;
using Counters = std::array<uint64_t, kCounterBytes / 8>;

inline uint64_t Aligned(uint64_t bytes) {
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

// Of `cols` elements of a codec.
uint64_t RowBytes(Codec codec, uint64_t cols);
// Bytes of scales of a row; 0 for codecs that have none per row.
uint64_t ScaleRowBytes(Codec codec, uint64_t cols);
Anomalies AnomaliesOf(const Counters& counters);

void CopyRows(uint8_t* to, uint64_t to_stride, const uint8_t* from, uint64_t from_stride, uint64_t bytes,
              uint64_t rows);

class StagingSlot {
 public:
  StagingSlot() = default;
  ~StagingSlot();
  StagingSlot(const StagingSlot&) = delete;
  StagingSlot& operator=(const StagingSlot&) = delete;

  bool Init(uint64_t bytes, std::string* error);

  uint64_t empty_room() const { return capacity_ - InputStart(); }
  uint64_t room() const { return out_begin_ - in_end_; }
  uint64_t descriptor_bytes() const { return descriptor_bytes_; }
  cudaStream_t stream() const { return stream_; }
  unsigned long long* counters() const { return reinterpret_cast<unsigned long long*>(device_); }
  const uint8_t* descriptors() const { return device_ + kCounterBytes; }

  // Room for input, filled by fill(host pointer). Returns the device pointer.
  template <typename Fill>
  uint8_t* Take(uint64_t bytes, Fill fill) {
    const uint64_t at = in_end_;
    fill(host_ + at);
    in_end_ += Aligned(bytes);
    return device_ + at;
  }
  uint8_t* TakeRows(const void* from, uint64_t from_stride, uint64_t bytes, uint64_t to_stride, uint64_t rows);
  // Room for output rows, to be scattered to `to` by Finish. Returns the device pointer.
  uint8_t* TakeOutput(uint8_t* to, uint64_t to_stride, uint64_t bytes, uint64_t stride, uint64_t rows);

  // Sends counters and descriptors, then the inputs.
  bool Upload(const Counters& counters, const void* descriptors, uint64_t bytes, std::string* error);
  // Fetches counters and outputs; after the launches.
  bool Download(std::string* error);
  // Waits for it, scatters the results and empties the slot. Nothing to do where nothing was uploaded.
  bool Finish(Counters* counters, std::string* error);
  bool started() const { return started_; }
  // After a failure: nothing may still run on memory that is about to be reused.
  void Abandon();

 private:
  struct Output {
    uint8_t* to;
    uint64_t to_stride;
    uint64_t at;
    uint64_t stride;
    uint64_t bytes;
    uint64_t rows;
  };

  uint64_t InputStart() const { return Aligned(kCounterBytes + descriptor_bytes_); }
  void Clear();

  uint64_t capacity_ = 0, descriptor_bytes_ = 0;
  uint64_t in_end_ = 0, out_begin_ = 0;
  bool started_ = false;
  uint8_t* host_ = nullptr;
  uint8_t* device_ = nullptr;
  cudaStream_t stream_ = nullptr;
  std::vector<Output> outputs_;
};

}  // namespace mimo::kernels::cuda
