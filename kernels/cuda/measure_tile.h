// The largest finite magnitude of rows of a source, and the range of MXFP4 exponents: what one GPU thread sees of one
// tile.
#pragma once

#include "kernels/codec/scale_rule.h"
#include "kernels/cuda/convert_tile.h"

namespace mimo::kernels::cuda {

// Bits of magnitudes, and E8M0 bytes, as in Measured. Combined in any order.
struct MeasureTally {
  uint32_t amax = 0;
  uint32_t least = 255;
  uint32_t largest = 0;
};

template <Codec kFrom>
MIMO_HD inline void MeasureUnit(const DeviceBand& band, uint64_t row, uint64_t col, bool via_bf16,
                                MeasureTally* tally) {
  float values[kUnit];
  if (FastUnit<kFrom>(band, row, col, values)) {
    float amax = 0;
    MIMO_UNROLL
    for (int i = 0; i < kUnit; ++i) amax = Magnitude(values[i]) > amax ? Magnitude(values[i]) : amax;
    amax = EncodedValue(amax, via_bf16);  // rounding keeps the order
    if (IsFinite(amax)) {
      if (FloatBits(amax) > tally->amax) tally->amax = FloatBits(amax);
      return;
    }
  }
  Tally counted_when_encoded;
  for (uint64_t c = col; c < col + kUnit && c < band.cols; ++c) {
    const float value = SourceElement<kFrom>(band, row, c, &counted_when_encoded).value;
    const uint32_t bits = FloatBits(FiniteMagnitude(EncodedValue(value, via_bf16)));
    if (bits > tally->amax) tally->amax = bits;
  }
}

MIMO_HD inline void MeasureMxfp4Unit(const DeviceBand& band, uint64_t row, uint64_t col, MeasureTally* tally) {
  const uint32_t byte = band.scales[row * band.scale_row_bytes + col / kMxGroup];
  if (byte == kE8m0Nan || (byte >= tally->least && byte <= tally->largest)) return;
  if (!AnyNonZeroNibble(band, row, col, col + kUnit)) return;
  if (byte < tally->least) tally->least = byte;
  if (byte > tally->largest) tally->largest = byte;
}

// `thread` of a block of kThreads; tiles as for ConvertTile.
template <Codec kFrom>
MIMO_HD inline void MeasureTile(const DeviceBand& band, uint64_t tile, uint32_t thread, bool via_bf16,
                                MeasureTally* tally) {
  const uint32_t lanes = band.lanes;
  const uint32_t lines = kThreads / lanes;
  const uint32_t line = thread / lanes;
  const uint64_t col = (tile % band.tiles_across * lanes + thread % lanes) * kUnit;
  if (line >= lines || col >= band.cols) return;
  const uint64_t first = tile / band.tiles_across * lines * kTileRows;
  const uint64_t end = first + lines * kTileRows < band.rows ? first + lines * kTileRows : band.rows;
  for (uint64_t row = first + line; row < end; row += lines) {
    MeasureUnit<kFrom>(band, row, col, via_bf16, tally);
    if constexpr (kFrom == Codec::kMxfp4) MeasureMxfp4Unit(band, row, col, tally);
  }
}

}  // namespace mimo::kernels::cuda
