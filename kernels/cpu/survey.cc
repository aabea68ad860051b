// Statistics over codes, without decoding them.
#include <algorithm>
#include <cstring>

#include "kernels/convert.h"

namespace mimo::kernels {

void MaxCodes(const uint8_t* codes, uint64_t row_bytes, uint64_t rows, uint64_t cols, uint32_t column_block,
              uint8_t* out) {
  constexpr uint64_t kPanel = 4096;  // columns whose maxima stay in L1 while the rows stream by
  uint8_t largest[kPanel];
  std::memset(out, 0, (cols + column_block - 1) / column_block);
  for (uint64_t start = 0; start < cols; start += kPanel) {
    const uint64_t width = std::min(kPanel, cols - start);
    std::memset(largest, 0, width);
    for (uint64_t row = 0; row < rows; ++row) {
      const uint8_t* in = codes + row * row_bytes + start;
      for (uint64_t i = 0; i < width; ++i) {
        const uint8_t magnitude = in[i] & 0x7F;
        largest[i] = std::max(largest[i], magnitude);
      }
    }
    for (uint64_t i = 0; i < width; ++i) {
      uint8_t& block = out[(start + i) / column_block];
      block = std::max(block, largest[i]);
    }
  }
}

}  // namespace mimo::kernels
