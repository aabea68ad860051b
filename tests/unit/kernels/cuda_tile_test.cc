// The code of a GPU thread, run for every thread of every tile on the host. What stays untested without a GPU: the
// launch, the staging, the reduction of the counts, and the hardware's BF16 packing.
#include <gtest/gtest.h>

#include "kernels/cuda/convert_tile.h"
#include "tests/unit/kernels/random_case.h"

namespace mimo::kernels::cuda_tile_test {
namespace {

using cuda::DeviceBand;
using cuda::Tally;

template <Codec kFrom, Codec kTo>
Anomalies RunTiles(const Band& band, uint64_t first_col, uint64_t cols) {
  DeviceBand device{};
  device.data = static_cast<const uint8_t*>(band.source.data) + RowBytes(kFrom, first_col);
  device.data_row_bytes = band.source.row_bytes;
  device.scales = static_cast<const uint8_t*>(band.source.scales) +
                  (cuda::kScaleColumns<kFrom> > 1 ? first_col / cuda::kScaleColumns<kFrom> : 0);
  device.scale_row_bytes = band.source.scale_row_bytes;
  device.out = static_cast<uint8_t*>(band.target.data) + RowBytes(kTo, first_col);
  device.out_row_bytes = band.target.row_bytes;
  device.rows = band.rows;
  device.cols = cols;
  device.first_col = first_col;
  device.edges = band.column_edges;
  device.blocks = band.column_blocks;
  device.block_width = band.column_block;
  device.global = band.source.global;
  device.global_divides = band.source.global_divides;
  device.judge_scales = true;
  cuda::ShapeTiles(kFrom, &device);
  Tally tally;
  for (uint64_t tile = 0; tile < cuda::TileCount(device); ++tile) {
    for (uint32_t thread = 0; thread < cuda::kThreads; ++thread)
      cuda::ConvertTile<kFrom, kTo>(device, tile, thread, &tally);
  }
  return {tally.nan_codes, tally.infinities, tally.zero_scale_codes, tally.bad_scales, tally.overflows};
}

template <Codec kFrom, Codec kTo>
void ExpectEqualsPortable() {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const RandomCase one(kFrom, kTo, seed % 3 == 0 ? 3 : 90, seed % 4 == 0 ? 5000 : 600, 3000 + seed);
    std::vector<uint8_t> expected = one.blank_target(), target = one.blank_target();
    const Band expected_band = one.BandInto(&expected);
    const Band band = one.BandInto(&target);
    const Anomalies wanted = ConvertBands({&expected_band, 1}, 1, Isa::kPortable);
    Anomalies anomalies;
    const uint64_t cut = seed % 2 == 0 ? 0 : band.cols / 2 / 32 * 32;  // as the staging cuts long rows
    if (cut > 0) anomalies += RunTiles<kFrom, kTo>(band, 0, cut);
    anomalies += RunTiles<kFrom, kTo>(band, cut, band.cols - cut);
    ASSERT_EQ(anomalies, wanted) << seed;
    ASSERT_EQ(RandomCase::Content(&target), RandomCase::Content(&expected)) << seed;
  }
}

template <Codec kFrom>
void ExpectEqualsPortableToAll() {
  ExpectEqualsPortable<kFrom, Codec::kFp32>();
  ExpectEqualsPortable<kFrom, Codec::kFp16>();
  ExpectEqualsPortable<kFrom, Codec::kBf16>();
}

TEST(CudaTile, Fp8) {
  ExpectEqualsPortableToAll<Codec::kFp8Block>();
}
TEST(CudaTile, Mxfp4) {
  ExpectEqualsPortableToAll<Codec::kMxfp4>();
}
TEST(CudaTile, Mxfp8) {
  ExpectEqualsPortableToAll<Codec::kMxfp8>();
}
TEST(CudaTile, Nvfp4) {
  ExpectEqualsPortableToAll<Codec::kNvfp4>();
}
TEST(CudaTile, Fp32) {
  ExpectEqualsPortableToAll<Codec::kFp32>();
}
TEST(CudaTile, Fp16) {
  ExpectEqualsPortableToAll<Codec::kFp16>();
}
TEST(CudaTile, Bf16) {
  ExpectEqualsPortableToAll<Codec::kBf16>();
}

}  // namespace
}  // namespace mimo::kernels::cuda_tile_test
