// safetensors: 8 bytes little-endian header length N, N bytes of JSON, then the data.
//   {"__metadata__": {string: string}, NAME: {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]}, ...}
// Rules checked by the reader, each an error naming file and tensor: N <= 100 000 000 and within the file; the header
// is UTF-8 JSON that starts with '{' and may end in spaces; no key twice, at any level; exactly the three fields; known
// dtype; non-negative shape whose product times the bits of the dtype is a whole number of bytes and equals end -
// begin, without overflow; ranges within the file, without overlap and without holes, the last one ending where the
// file ends; metadata values are strings. Data need not be aligned.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/io/tensor_info.h"

namespace mimo {

struct SafetensorsHeader {
  uint64_t data_begin = 0;  // 8 + N
  uint64_t file_bytes = 0;
  std::vector<TensorInfo> tensors;  // ascending by begin (zero-size tensors by name among equals)
  std::vector<std::pair<std::string, std::string>> metadata;  // in file order
};

inline constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;
inline constexpr uint64_t kSafetensorsPrefixBytes = 8;  // the length of the header, before it

// Reads only the header. kBadInput for a broken rule, kIo when the file cannot be read.
Result<SafetensorsHeader> ReadSafetensorsHeader(FileSystem& fs, const std::string& path);

// Reads a header from memory, for tests and fuzzing: `json` is its N bytes, `file_bytes` the length of the whole file.
Result<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json, uint64_t file_bytes, const std::string& path);

// Lays `tensors` out in the order given (callers sort by name), without gaps, and returns the header bytes (length
// prefix included, padded with spaces to a multiple of 8). begin and end of every tensor are set. Deterministic:
// metadata keys are written in the order given, after nothing and before every tensor.
std::string LayOutSafetensors(std::span<TensorInfo> tensors,
                              std::span<const std::pair<std::string, std::string>> metadata);

}  // namespace mimo
