#include "lib/decode/source_array.h"

#include <algorithm>

#include "lib/base/checked.h"

namespace mimo {

std::vector<SourceBand> BandsOf(const SourceArray& source, int64_t row, int64_t rows) {
  std::vector<SourceBand> bands;
  const int64_t end = row + rows;
  if (source.bands.empty()) {
    bands.reserve(static_cast<size_t>(CeilDiv(end, source.block_rows) - row / source.block_rows));
    for (int64_t begin = row; begin < end;) {
      const int64_t scale_row = begin / source.block_rows;
      const int64_t stop = std::min(end, (scale_row + 1) * source.block_rows);
      bands.push_back({begin, stop, source.scale, scale_row});
      begin = stop;
    }
    return bands;
  }
  auto it = std::upper_bound(source.bands.begin(), source.bands.end(), row,
                             [](int64_t r, const SourceBand& band) { return r < band.row_end; });
  for (; it != source.bands.end() && it->row_begin < end; ++it) {
    bands.push_back({std::max(row, it->row_begin), std::min(end, it->row_end), it->scale, it->scale_row});
  }
  return bands;
}

}  // namespace mimo
