// Rows of a vocabulary that nothing of a conversion shows: padding, when it is zero (Megatron and vLLM pad the
// vocabulary so that ranks can share it; training fills Megatron's).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/file_system.h"

namespace mimo {

struct Catalogue;

struct CutRows {
  std::string tensor;  // as the Hugging Face form calls it
  uint32_t array = 0;  // into the stored catalogue
  int64_t first = 0;   // row of that array
  int64_t rows = 0;
  int64_t nonzero = 0;  // rows that hold anything but zeros; once counted
};

// Counts the rows that are not zero (negative zeros are zeros). Reads these rows and nothing else. kIo.
Status CountCutRows(FileSystem& fs, const Catalogue& stored, std::vector<CutRows>* cut);

}  // namespace mimo
