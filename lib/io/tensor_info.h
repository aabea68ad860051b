// An array of a file: what it is and where its data lies.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/io/dtype.h"

namespace mimo {

struct TensorInfo {
  std::string name;
  DType dtype = DType::kU8;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // bytes from the start of the file
  uint64_t end = 0;
  uint64_t bytes() const { return end - begin; }
};

}  // namespace mimo
