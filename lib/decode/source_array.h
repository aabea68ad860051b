// A stored array that is read, and how its values are decoded.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/convert.h"
#include "lib/io/dtype.h"
#include "lib/model/inventory.h"

namespace mimo {

using kernels::Codec;

// Rows [row_begin, row_end) of a block-FP8 source take row `scale_row` of source `scale`.
struct SourceBand {
  int64_t row_begin = 0;
  int64_t row_end = 0;
  uint32_t scale = kNone;  // into the list that the source is in (Plan::sources)
  int64_t scale_row = 0;
};

struct SourceArray {
  uint32_t array = kNone;       // into Catalogue::arrays
  bool quantized = false;       // `codec` is a block codec and the fields below are set
  Codec codec = Codec::kBf16;   // of the values; meaningless for arrays that are only moved (other dtypes)
  uint32_t scale = kNone;       // as SourceBand::scale; all but kFp8Block with a grid of its own (bands not empty)
  uint32_t global = kNone;      // into the same list; kNvfp4: one F32
  bool global_divides = false;  // kNvfp4: kernels::Source::global_divides
  int64_t block_rows = 128;     // uniform grids of kFp8Block
  int64_t block_cols = 128;
  // kFp8Block: the type of its scales (lib/model/scale_values.h), and whether they are one row, of which element r is
  // that of row r of the codes ([rows], where the usual scales of rows are [rows, 1]).
  DType scale_type = DType::kF32;
  bool scales_in_a_row = false;
  std::vector<SourceBand> bands;  // kFp8Block with a grid of its own: ascending, covering every row
};

// The bands of a block-FP8 source that rows [row, row + rows) touch, cut to those rows, ascending.
std::vector<SourceBand> BandsOf(const SourceArray& source, int64_t row, int64_t rows);

// Calls visit(source, row, rows) with the rows of scales, and the global, that rows [row, row + rows), at least one,
// of `source` need to be decoded.
template <class Visit>
void VisitScaleRows(const SourceArray& source, int64_t row, int64_t rows, Visit visit) {
  if (!source.quantized) return;
  if (!kernels::HasBlockScales(source.codec)) {
    visit(source.scale, row, rows);
    if (source.global != kNone) visit(source.global, int64_t{0}, int64_t{1});
  } else if (source.scales_in_a_row) {
    visit(source.scale, int64_t{0}, int64_t{1});
  } else if (source.bands.empty()) {
    const int64_t first = row / source.block_rows;
    visit(source.scale, first, (row + rows - 1) / source.block_rows - first + 1);
  } else {
    for (const SourceBand& band : BandsOf(source, row, rows)) visit(band.scale, band.scale_row, int64_t{1});
  }
}

}  // namespace mimo
