// model.safetensors.index.json: which file holds which tensor, and a few facts about the whole.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/status.h"

namespace mimo {

struct IndexInfo {
  bool present = false;
  std::string text;  // the file
  std::optional<uint64_t> total_size;
  std::optional<int64_t> tp_size;
  std::string save_format;
  std::vector<std::pair<std::string, std::string>>
      metadata;                            // scalar entries of "metadata" in file order; values as JSON text
  std::vector<std::string> missing_files;  // named by the index, not on disk
};

struct ParsedIndex {
  IndexInfo info;                                               // missing_files is left to the caller
  std::vector<std::pair<std::string, std::string>> weight_map;  // tensor, file; in file order
};

// kBadInput for what is not a JSON object, for a file name that is no string or leaves the directory. Integers may be
// strings.
Result<ParsedIndex> ParseIndex(std::string text, const std::string& path);

}  // namespace mimo
