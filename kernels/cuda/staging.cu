#include <algorithm>

#include "kernels/cuda/check.h"
#include "kernels/cuda/staging.h"

namespace mimo::kernels::cuda {

uint64_t RowBytes(Codec codec, uint64_t cols) {
  return (cols * ElementBits(codec) + 7) / 8;
}

uint64_t ScaleRowBytes(Codec codec, uint64_t cols) {
  const uint64_t group = GroupOf(codec);
  return group == 0 ? 0 : (cols + group - 1) / group;
}

Anomalies AnomaliesOf(const Counters& counters) {
  return {counters[0], counters[1], counters[2], counters[3], counters[4]};
}

void CopyRows(uint8_t* to, uint64_t to_stride, const uint8_t* from, uint64_t from_stride, uint64_t bytes,
              uint64_t rows) {
  if (to_stride == bytes && from_stride == bytes) {
    std::memcpy(to, from, bytes * rows);
    return;
  }
  for (uint64_t row = 0; row < rows; ++row) std::memcpy(to + row * to_stride, from + row * from_stride, bytes);
}

StagingSlot::~StagingSlot() {
  if (stream_ != nullptr) {
    (void)cudaStreamSynchronize(stream_);
    (void)cudaStreamDestroy(stream_);
  }
  if (device_ != nullptr) (void)cudaFree(device_);
  if (host_ != nullptr) (void)cudaFreeHost(host_);
}

bool StagingSlot::Init(uint64_t bytes, std::string* error) {
  capacity_ = bytes / kAlign * kAlign;
  descriptor_bytes_ = std::min<uint64_t>(capacity_ / 8, uint64_t{1} << 20);
  MIMO_CUDA_TRY(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  MIMO_CUDA_TRY(cudaMallocHost(reinterpret_cast<void**>(&host_), capacity_));
  MIMO_CUDA_TRY(cudaMalloc(reinterpret_cast<void**>(&device_), capacity_));
  Clear();
  return true;
}

uint8_t* StagingSlot::TakeRows(const void* from, uint64_t from_stride, uint64_t bytes, uint64_t to_stride,
                               uint64_t rows) {
  return Take(rows * to_stride, [&](uint8_t* to) {
    CopyRows(to, to_stride, static_cast<const uint8_t*>(from), from_stride, bytes, rows);
  });
}

uint8_t* StagingSlot::TakeOutput(uint8_t* to, uint64_t to_stride, uint64_t bytes, uint64_t stride, uint64_t rows) {
  out_begin_ -= Aligned(rows * stride);
  outputs_.push_back({to, to_stride, out_begin_, stride, bytes, rows});
  return device_ + out_begin_;
}

bool StagingSlot::Upload(const Counters& counters, const void* descriptors, uint64_t bytes, std::string* error) {
  std::memcpy(host_, counters.data(), kCounterBytes);
  std::memcpy(host_ + kCounterBytes, descriptors, bytes);
  started_ = true;
  MIMO_CUDA_TRY(cudaMemcpyAsync(device_, host_, in_end_, cudaMemcpyHostToDevice, stream_));
  return true;
}

bool StagingSlot::Download(std::string* error) {
  MIMO_CUDA_TRY(cudaMemcpyAsync(host_, device_, kCounterBytes, cudaMemcpyDeviceToHost, stream_));
  if (out_begin_ == capacity_) return true;
  MIMO_CUDA_TRY(cudaMemcpyAsync(host_ + out_begin_, device_ + out_begin_, capacity_ - out_begin_,
                                cudaMemcpyDeviceToHost, stream_));
  return true;
}

bool StagingSlot::Finish(Counters* counters, std::string* error) {
  if (!started_) return true;
  MIMO_CUDA_TRY(cudaStreamSynchronize(stream_));
  std::memcpy(counters->data(), host_, kCounterBytes);
  for (const Output& one : outputs_) CopyRows(one.to, one.to_stride, host_ + one.at, one.stride, one.bytes, one.rows);
  Clear();
  return true;
}

void StagingSlot::Abandon() {
  (void)cudaStreamSynchronize(stream_);
  Clear();
}

void StagingSlot::Clear() {
  outputs_.clear();
  started_ = false;
  in_end_ = InputStart();
  out_begin_ = capacity_;
}

}  // namespace mimo::kernels::cuda
