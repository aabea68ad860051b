// The JSON half of the safetensors reader: syntax, fields, types. Whether the ranges fit together is the reader's.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lib/base/status.h"
#include "lib/io/safetensors/safetensors.h"

namespace mimo {

struct SafetensorsEntries {
  std::vector<TensorInfo> tensors;  // in file order; begin and end relative to the data
  std::vector<std::pair<std::string, std::string>> metadata;
};

// `json` is the whole header, padding included. Every tensor has its three fields and begin <= end.
Result<SafetensorsEntries> ParseSafetensorsJson(std::string_view json, const std::string& path);

// A string from a file, quoted and cut to a length that suits a message.
std::string Excerpt(std::string_view text);

}  // namespace mimo
