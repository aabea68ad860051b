#include "lib/model/fp8_grid.h"

#include <algorithm>

#include "lib/base/checked.h"

namespace mimo {

std::optional<Fp8Grid> GridOf(const Fp8Shapes& s) {
  if (s.codes.size() != 2 || s.block_rows < 1 || s.block_cols < 1) return std::nullopt;
  const int64_t rows = s.codes[0], cols = s.codes[1];
  const int64_t grid_rows = CeilDiv(rows, s.block_rows), grid_cols = CeilDiv(cols, s.block_cols);
  const Fp8Grid by_rows{ScaleSpan::kRow, 1, std::max<int64_t>(cols, 1)};
  const Fp8Grid whole{ScaleSpan::kTensor, std::max<int64_t>(rows, 1), std::max<int64_t>(cols, 1)};
  const Fp8Grid blocks{ScaleSpan::kBlock, s.block_rows, s.block_cols};
  if (s.scales.empty() || s.scales == std::vector<int64_t>{1}) return whole;
  if (s.scales.size() == 1) return s.scales[0] == rows ? std::optional(by_rows) : std::nullopt;
  if (s.scales.size() != 2) return std::nullopt;
  if (s.scales == std::vector<int64_t>{grid_rows, grid_cols}) return blocks;
  if (s.scales == std::vector<int64_t>{rows, 1}) return by_rows;
  if (s.scales == std::vector<int64_t>{1, 1} && !s.in_blocks) return whole;
  return s.any_scale_rows && s.scales[1] == grid_cols ? std::optional(blocks) : std::nullopt;
}

}  // namespace mimo
