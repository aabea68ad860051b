// Two bytes that say how much data follows the header, then the header. Whatever is accepted must keep the promises of
// lib/io/safetensors/safetensors.h, and must survive being written and read again.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "lib/io/safetensors/safetensors.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

void CheckAccepted(const mimo::SafetensorsHeader& header, uint64_t header_bytes, uint64_t file_bytes) {
  Require(header.data_begin == 8 + header_bytes && header.file_bytes == file_bytes);
  uint64_t covered = header.data_begin;
  for (const mimo::TensorInfo& tensor : header.tensors) {
    Require(tensor.begin == covered && tensor.end >= tensor.begin && tensor.end <= file_bytes);
    Require(mimo::TensorBytes(tensor.dtype, tensor.shape) == tensor.bytes());
    covered = tensor.end;
  }
  Require(covered == file_bytes);
}

void CheckRoundTrip(const mimo::SafetensorsHeader& header) {
  std::vector<mimo::TensorInfo> tensors = header.tensors;
  const std::string bytes = mimo::LayOutSafetensors(tensors, header.metadata);
  const uint64_t data_bytes = header.file_bytes - header.data_begin;
  auto again = mimo::ParseSafetensorsHeader(std::string_view(bytes).substr(8), bytes.size() + data_bytes, "again");
  Require(again.ok());
  Require(again->metadata == header.metadata && again->tensors.size() == tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const mimo::TensorInfo& a = header.tensors[i];
    const mimo::TensorInfo& b = again->tensors[i];
    Require(a.name == b.name && a.dtype == b.dtype && a.shape == b.shape);
    Require(a.begin - header.data_begin == b.begin - again->data_begin && a.bytes() == b.bytes());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string_view json(reinterpret_cast<const char*>(data) + 2, size - 2);
  const uint64_t file_bytes = 8 + json.size() + (data[0] | static_cast<uint64_t>(data[1]) << 8);
  auto header = mimo::ParseSafetensorsHeader(json, file_bytes, "fuzz");
  if (header.ok()) {
    CheckAccepted(header.value(), json.size(), file_bytes);
    CheckRoundTrip(header.value());
  } else {
    Require(header.error().code == mimo::ErrorCode::kBadInput && header.error().file == "fuzz");
    Require(!header.error().what.empty() && !header.error().advice.empty());
  }
  return 0;
}
