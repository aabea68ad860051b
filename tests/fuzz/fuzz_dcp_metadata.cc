// A .metadata pickle. Whatever is accepted must be what lib/io/torch/dcp_metadata.h promises, checked element by
// element for small tensors, and must survive being written and read again.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "lib/io/torch/dcp_metadata.h"
#include "lib/io/torch/dcp_tiling.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

void CheckTiling(const mimo::DcpTensor& tensor) {
  const auto elements = mimo::ElementsOf(tensor.shape);
  Require(elements.has_value());
  if (*elements > 4096) return;
  std::vector<int> seen(static_cast<size_t>(*elements), 0);
  for (const mimo::DcpChunk& chunk : tensor.chunks) {
    const auto in_chunk = mimo::ElementsOf(chunk.sizes);
    Require(in_chunk.has_value() && *in_chunk > 0 && *in_chunk <= *elements);
    for (int64_t i = 0; i < *in_chunk; ++i) {
      int64_t rest = i;
      int64_t place = 0;
      int64_t stride = 1;
      for (size_t axis = tensor.shape.size(); axis-- > 0;) {
        place += (chunk.offsets[axis] + rest % chunk.sizes[axis]) * stride;
        rest /= chunk.sizes[axis];
        stride *= tensor.shape[axis];
      }
      ++seen[static_cast<size_t>(place)];
    }
  }
  for (const int times : seen) Require(times == 1);
}

void CheckRange(const mimo::DcpRange& range) {
  Require(!range.file.empty() && range.file.front() != '/' && range.file != "..");
  Require(range.file.find("../") == std::string::npos || range.file.find("../") > 0);
  Require(range.offset + range.bytes >= range.offset);
}

bool Same(const mimo::DcpRange& a, const mimo::DcpRange& b) {
  return a.file == b.file && a.offset == b.offset && a.bytes == b.bytes;
}

void CheckSame(const mimo::DcpMetadata& a, const mimo::DcpMetadata& b) {
  Require(a.tensors.size() == b.tensors.size() && a.bytes.size() == b.bytes.size() && b.foreign.empty());
  for (size_t i = 0; i < a.tensors.size(); ++i) {
    const mimo::DcpTensor& x = a.tensors[i];
    const mimo::DcpTensor& y = b.tensors[i];
    Require(x.key == y.key && x.dtype == y.dtype && x.shape == y.shape && x.chunks.size() == y.chunks.size());
    for (size_t k = 0; k < x.chunks.size(); ++k) {
      Require(x.chunks[k].offsets == y.chunks[k].offsets && x.chunks[k].sizes == y.chunks[k].sizes);
      Require(Same(x.chunks[k].range, y.chunks[k].range));
    }
  }
  for (size_t i = 0; i < a.bytes.size(); ++i) {
    Require(a.bytes[i].key == b.bytes[i].key && Same(a.bytes[i].range, b.bytes[i].range));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto metadata = mimo::ReadDcpMetadata(std::string_view(reinterpret_cast<const char*>(data), size), "fuzz");
  if (!metadata.ok()) {
    const mimo::Error& error = metadata.error();
    Require(error.code == mimo::ErrorCode::kBadInput && error.file == "fuzz" && !error.what.empty());
    return 0;
  }
  for (const mimo::DcpTensor& tensor : metadata->tensors) {
    CheckTiling(tensor);
    for (const mimo::DcpChunk& chunk : tensor.chunks) CheckRange(chunk.range);
  }
  for (const mimo::DcpBytes& item : metadata->bytes) CheckRange(item.range);
  auto again = mimo::ReadDcpMetadata(mimo::WriteDcpMetadata(metadata.value()), "fuzz");
  Require(again.ok());
  CheckSame(metadata.value(), again.value());
  return 0;
}
