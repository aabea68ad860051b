// Statistics over codes, without decoding them.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/encode_table.h"

namespace mimo::kernels {

void MaxCodes(const uint8_t* codes, uint64_t row_bytes, uint64_t rows, uint64_t cols, uint32_t column_block,
              uint8_t* out) {
  const EncodeKernels& kernels = EncodersFor(BestIsa());
  constexpr uint64_t kPanel = 4096;  // columns whose maxima stay in L1 while the rows stream by
  uint8_t largest[kPanel];
  std::memset(out, 0, (cols + column_block - 1) / column_block);
  for (uint64_t start = 0; start < cols; start += kPanel) {
    const uint64_t width = std::min(kPanel, cols - start);
    std::memset(largest, 0, width);
    for (uint64_t row = 0; row < rows; ++row) kernels.column_max(codes + row * row_bytes + start, width, largest);
    for (uint64_t i = 0; i < width; ++i) {
      uint8_t& block = out[(start + i) / column_block];
      block = std::max(block, largest[i]);
    }
  }
}

uint64_t CountNanCodes(const uint8_t* codes, uint64_t n) {
  const auto count = [&](uint64_t begin, uint64_t end) {
    uint64_t nans = 0;
    for (uint64_t i = begin; i < end; ++i) nans += E4m3IsNan(codes[i]);
    return nans;
  };
  uint64_t nans = 0, at = 0;
  for (; at + kMxGroup <= n; at += kMxGroup) {  // usually there is none: a look at the whole group
    uint8_t any = 0;
    for (uint64_t i = at; i < at + kMxGroup; ++i) any |= E4m3IsNan(codes[i]);
    if (any != 0) nans += count(at, at + kMxGroup);
  }
  return nans + count(at, n);
}

}  // namespace mimo::kernels
