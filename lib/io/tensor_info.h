// An array of a file: what it is and where its data lies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "lib/io/dtype.h"

namespace mimo {

// The longest name of a tensor, and of anything else that a file gives a name. Names are kept, compared, searched and
// printed, and the longest that exist have some 120 bytes.
inline constexpr size_t kMaxNameBytes = 4096;

struct TensorInfo {
  std::string name;
  DType dtype = DType::kU8;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // bytes from the start of the file
  uint64_t end = 0;
  uint64_t bytes() const { return end - begin; }
};

}  // namespace mimo
