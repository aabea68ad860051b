// The code of the GPU threads that encode, run for every thread of every tile on the host.
#pragma once

#include "kernels/cuda/cell_tile.h"
#include "kernels/cuda/nibble_table.h"
#include "tests/unit/kernels/encode_lab.h"

namespace mimo::kernels {

using cuda::DeviceBand;
using cuda::DeviceRun;
using cuda::EncodeParams;
using cuda::GroupTarget;
using cuda::Tally;

inline DeviceBand BandOf(const Band& band) {
  DeviceBand device{};
  device.codec = band.source.codec;
  device.data = static_cast<const uint8_t*>(band.source.data);
  device.data_row_bytes = band.source.row_bytes;
  device.scales = static_cast<const uint8_t*>(band.source.scales);
  device.scale_row_bytes = band.source.scale_row_bytes;
  device.rows = band.rows;
  device.cols = band.cols;
  device.edges = band.column_edges;
  device.blocks = band.column_blocks;
  device.block_width = band.column_block;
  device.global = band.source.global;
  device.global_divides = band.source.global_divides;
  device.judge_scales = true;
  return device;
}

struct Grid {
  EncodeParams params;
  Tally tally;

  template <Codec kFrom, GroupTarget kTo>
  void Run(DeviceRun run) {
    run.from.aligned = cuda::GroupsAligned(run, kTo);
    constexpr bool kTable = kFrom == Codec::kFp8Block && (kTo == GroupTarget::kNvfp4Max || kTo == GroupTarget::kMxfp4);
    if constexpr (kTable) {
      const uint64_t tiles = cuda::ShapeTableTiles(&run);
      for (uint64_t tile = 0; tile < tiles; ++tile) {
        cuda::NibbleTables tables;
        std::fill_n(reinterpret_cast<uint8_t*>(&tables), sizeof(tables), uint8_t{0x5A});
        for (uint32_t t = 0; t < cuda::kThreads; ++t) cuda::FillTables<kTo>(run, params, tile, t, &tables);
        for (uint32_t t = 0; t < cuda::kThreads; ++t) {
          cuda::EncodeTableTile<kTo>(run, params, tile, t, tables, &tally);
        }
      }
    } else {
      const uint64_t tiles = cuda::ShapeGroupTiles(cuda::kGroup<kTo>, &run);
      for (uint64_t tile = 0; tile < tiles; ++tile) {
        for (uint32_t t = 0; t < cuda::kThreads; ++t) cuda::EncodeTile<kFrom, kTo>(run, params, tile, t, &tally);
      }
    }
  }

  template <Codec kFrom>
  void RunTo(const DeviceRun& run) {
    switch (cuda::TargetOf(params.encoding)) {
      case GroupTarget::kNvfp4Max:
        return Run<kFrom, GroupTarget::kNvfp4Max>(run);
      case GroupTarget::kNvfp4Best:
        return Run<kFrom, GroupTarget::kNvfp4Best>(run);
      case GroupTarget::kMxfp4:
        return Run<kFrom, GroupTarget::kMxfp4>(run);
      case GroupTarget::kMxfp8:
        return Run<kFrom, GroupTarget::kMxfp8>(run);
    }
  }

  void RunAny(const DeviceRun& run) {
    switch (run.from.codec) {
      case Codec::kFp32:
        return RunTo<Codec::kFp32>(run);
      case Codec::kFp16:
        return RunTo<Codec::kFp16>(run);
      case Codec::kBf16:
        return RunTo<Codec::kBf16>(run);
      case Codec::kFp8Block:
        return RunTo<Codec::kFp8Block>(run);
      case Codec::kMxfp4:
        return RunTo<Codec::kMxfp4>(run);
      case Codec::kMxfp8:
        return RunTo<Codec::kMxfp8>(run);
      case Codec::kNvfp4:
        return RunTo<Codec::kNvfp4>(run);
    }
  }

  void RunCells(std::vector<DeviceRun> runs, uint64_t rows, uint64_t cols) {
    for (DeviceRun& run : runs) run.from.aligned = cuda::CellsAligned(run);
    const Encoding& encoding = params.encoding;
    const cuda::CellJob job{runs.data(),
                            static_cast<uint32_t>(runs.size()),
                            rows,
                            cols,
                            (cols + encoding.block_cols - 1) / encoding.block_cols,
                            params};
    const uint64_t cells = (rows + encoding.block_rows - 1) / encoding.block_rows * job.cells_across;
    for (uint64_t cell = 0; cell < cells; ++cell) {
      cuda::CellState state = cuda::EmptyCell();
      for (uint32_t t = 0; t < cuda::kThreads; ++t) {
        cuda::CellState mine = cuda::EmptyCell();
        cuda::MeasureCell(job, cell, t, &mine, &tally);
        cuda::MergeCell(mine, &state);
      }
      cuda::DecideCell(job, cell, &state, &tally);
      for (uint32_t t = 0; t < cuda::kThreads; ++t) cuda::EncodeCell(job, cell, t, state);
    }
  }
};

// Codes and scales from an aligned start, so that the vector paths apply.
struct AlignedBytes {
  explicit AlignedBytes(uint64_t size) : size_(size), bytes_(size + 64, 0xCD) {}
  uint8_t* data() { return bytes_.data() + (64 - reinterpret_cast<uintptr_t>(bytes_.data()) % 64) % 64; }
  std::vector<uint8_t> Content() { return std::vector<uint8_t>(data(), data() + size_); }
  uint64_t size_;
  std::vector<uint8_t> bytes_;
};

inline void ExpectGridEqualsCpu(const std::vector<Band>& bands, uint64_t cols, const Encoding& encoding,
                                const Nvfp4Global& global, const std::string& what,
                                const std::vector<uint8_t>* keep = nullptr) {
  const std::string label = what + " to " + Label(encoding);
  const EncodeImplementation cpu = EncodeImplementations()[0];
  const EncodeRun expected(bands, cols, encoding, global, cpu, false, 0, keep);
  const bool cells = encoding.codec == Codec::kFp8Block;
  uint64_t rows = 0;
  for (const Band& band : bands) rows += band.rows;
  const uint64_t code_bytes = expected.codes.size() / rows;
  const uint64_t scale_rows = cells ? (rows + encoding.block_rows - 1) / encoding.block_rows : rows;
  const uint64_t scale_bytes = expected.scales.size() / scale_rows;
  AlignedBytes codes(expected.codes.size()), scales(expected.scales.size());
  Grid grid;
  grid.params = {encoding, global};
  std::vector<DeviceRun> runs;
  uint64_t row = 0;
  for (const Band& band : bands) {
    runs.push_back({BandOf(band), codes.data() + row * code_bytes, code_bytes,
                    scales.data() + (cells ? 0 : row * scale_bytes), scale_bytes, row,
                    keep == nullptr ? nullptr : keep->data() + (cells ? 0 : row * scale_bytes)});
    row += band.rows;
  }
  if (cells) {
    grid.RunCells(runs, rows, cols);
  } else {
    for (const DeviceRun& run : runs) grid.RunAny(run);
  }
  ASSERT_EQ(Hex(scales.Content()), Hex(expected.scales)) << label;
  ASSERT_EQ(Hex(codes.Content()), Hex(expected.codes)) << label;
  const Tally& t = grid.tally;
  const EncodeCounts counts{{t.nan_codes, t.infinities, t.zero_scale_codes, t.bad_scales, t.overflows},
                            expected.counts.blocks,
                            t.exact_blocks,
                            t.kept_blocks};
  ASSERT_EQ(counts, expected.counts) << label;
}

inline void ExpectGridEqualsCpu(const std::vector<Band>& bands, uint64_t cols, const Encoding& encoding,
                                const std::string& what) {
  const EncodeImplementation cpu = EncodeImplementations()[0];
  ExpectGridEqualsCpu(bands, cols, encoding, GlobalOf(bands, cols, encoding, cpu), what);
}

}  // namespace mimo::kernels
