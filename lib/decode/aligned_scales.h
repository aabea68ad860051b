// Rows of F32 scales as the kernels want them: those that are not aligned as floats are copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <vector>

namespace mimo {

class AlignedScales {
 public:
  // Valid as long as this and `scales`.
  const float* Row(const std::byte* scales, uint64_t bytes) {
    if (reinterpret_cast<uintptr_t>(scales) % alignof(float) == 0) return reinterpret_cast<const float*>(scales);
    std::vector<float>& copy = copies_.emplace_back(bytes / sizeof(float));
    std::memcpy(copy.data(), scales, bytes);
    return copy.data();
  }

 private:
  std::deque<std::vector<float>> copies_;  // never moved
};

}  // namespace mimo
