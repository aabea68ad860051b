#include <algorithm>
#include <array>
#include <cstring>
#include <tuple>

#include "lib/io/safetensors/header_json.h"
#include "lib/io/safetensors/safetensors.h"

namespace mimo {
namespace {

std::string Bytes(uint64_t n) {
  return std::to_string(n) + " bytes";
}

std::string Range(const TensorInfo& tensor) {
  return "data_offsets [" + std::to_string(tensor.begin) + ", " + std::to_string(tensor.end) + ']';
}

std::string ShapeText(const TensorInfo& tensor) {
  std::string out = std::string(DTypeName(tensor.dtype)) + " [";
  for (size_t i = 0; i < tensor.shape.size(); ++i) out += (i == 0 ? "" : ", ") + std::to_string(tensor.shape[i]);
  return out + ']';
}

constexpr char kTruncated[] = "let the download of this file go on to the length that its header says";

Error Broken(const std::string& path, const std::string& tensor, std::string what) {
  return BadInput(std::move(what))
      .File(path)
      .Tensor(tensor)
      .Advice("compare the file's length and hash with those of where it came from");
}

// The size of the range is the size of the tensor.
Status CheckSize(const TensorInfo& tensor, const std::string& path) {
  const auto bytes = TensorBytes(tensor.dtype, tensor.shape);
  if (!bytes) {
    return Broken(path, tensor.name, "shape overflows or is not a whole number of bytes").Found(ShapeText(tensor));
  }
  if (*bytes != tensor.bytes()) {
    return Broken(path, tensor.name, "data_offsets do not match dtype and shape")
        .Expected(Bytes(*bytes) + " for " + ShapeText(tensor))
        .Found(Bytes(tensor.bytes()));
  }
  return {};
}

// The ranges, sorted, cover [0, data_bytes) once. `data_begin` is for messages that speak of the whole file.
Status CheckCover(const std::vector<TensorInfo>& tensors, uint64_t data_begin, uint64_t file_bytes,
                  const std::string& path) {
  const uint64_t data_bytes = file_bytes - data_begin;
  uint64_t covered = 0;
  uint64_t furthest = 0;
  for (const TensorInfo& tensor : tensors) furthest = std::max(furthest, tensor.end);  // as all sums, below 2^63
  for (const TensorInfo& tensor : tensors) {
    if (tensor.end > data_bytes) {
      return Broken(path, tensor.name, "data is truncated")
          .Expected("a file of " + Bytes(data_begin + furthest))
          .Found(Bytes(file_bytes))
          .Id("files.truncated")
          .Advice(kTruncated);
    }
    if (tensor.begin != covered) {
      return Broken(path, tensor.name,
                    tensor.begin < covered ? "data overlaps another tensor's" : "hole in the data before this tensor")
          .Expected("begin at " + std::to_string(covered))
          .Found(Range(tensor));
    }
    covered = tensor.end;
  }
  if (covered != data_bytes) {
    return Broken(path, "", "bytes after the last tensor")
        .Expected("a file of " + Bytes(data_begin + covered))
        .Found(Bytes(file_bytes));
  }
  return {};
}

}  // namespace

Result<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json, uint64_t file_bytes, const std::string& path) {
  SafetensorsHeader header;
  header.data_begin = kSafetensorsPrefixBytes + json.size();
  header.file_bytes = file_bytes;
  if (file_bytes < header.data_begin) {
    return Broken(path, "", "header is longer than the file")
        .Expected("at least " + Bytes(header.data_begin))
        .Found(Bytes(file_bytes));
  }
  MIMO_ASSIGN_OR_RETURN(auto entries, ParseSafetensorsJson(json, path));
  header.tensors = std::move(entries.tensors);
  header.metadata = std::move(entries.metadata);
  for (const TensorInfo& tensor : header.tensors) MIMO_RETURN_IF_ERROR(CheckSize(tensor, path));
  // Empty tensors first among those that begin together, so that they do not look like overlaps.
  const auto before = [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  };
  if (!std::is_sorted(header.tensors.begin(), header.tensors.end(), before)) {
    std::sort(header.tensors.begin(), header.tensors.end(), before);
  }
  MIMO_RETURN_IF_ERROR(CheckCover(header.tensors, header.data_begin, file_bytes, path));
  for (TensorInfo& tensor : header.tensors) {
    tensor.begin += header.data_begin;
    tensor.end += header.data_begin;
  }
  return header;
}

Result<SafetensorsHeader> ReadSafetensorsHeader(FileSystem& fs, const std::string& path) {
  MIMO_ASSIGN_OR_RETURN(const auto file, fs.OpenForRead(path));
  if (file->size() < kSafetensorsPrefixBytes) {
    return Broken(path, "", "file is too short for safetensors")
        .Expected("at least " + Bytes(kSafetensorsPrefixBytes))
        .Found(Bytes(file->size()));
  }
  std::array<std::byte, kSafetensorsPrefixBytes> prefix;
  MIMO_RETURN_IF_ERROR(file->ReadAt(0, prefix));
  uint64_t length = 0;
  for (size_t i = 0; i < kSafetensorsPrefixBytes; ++i) length |= std::to_integer<uint64_t>(prefix[i]) << (8 * i);
  const bool is_pointer = std::memcmp(prefix.data(), "version ", kSafetensorsPrefixBytes) == 0;
  if (length > kMaxSafetensorsHeaderBytes) {
    Error error = Broken(path, "", "header length is out of range");
    error.expected = "at most " + Bytes(kMaxSafetensorsHeaderBytes);
    error.found = Bytes(length);
    if (is_pointer) error.advice = "this looks like a Git LFS pointer: `git lfs pull` fetches the file itself";
    return error;
  }
  if (length > file->size() - kSafetensorsPrefixBytes) {
    return Broken(path, "", "header is longer than the file")
        .Expected("at least " + Bytes(kSafetensorsPrefixBytes + length))
        .Found(Bytes(file->size()))
        .Id("files.truncated")
        .Advice(kTruncated);
  }
  std::string json(length, '\0');
  MIMO_RETURN_IF_ERROR(file->ReadAt(kSafetensorsPrefixBytes, std::as_writable_bytes(std::span(json))));
  return ParseSafetensorsHeader(json, file->size(), path);
}

}  // namespace mimo
