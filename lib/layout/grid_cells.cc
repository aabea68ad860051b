#include "lib/layout/grid_cells.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace mimo {
namespace {

constexpr uint8_t kLargestCode = 0x7E;
constexpr double kDamaged = 0.03;  // three times what a verdict must bear
constexpr double kChance = 1e-3;   // of sound blocks that are taken for wrong ones
constexpr double kLeastDamage = 0.01;
constexpr uint64_t kEnough = 100;      // blocks to tell a share of damaged ones by
constexpr double kAlike = 0.1;         // levels of rows under one scale, natural logarithms
constexpr double kOfTheLargest = 0.7;  // what is certain of a chance that rows of other tails may have
constexpr uint64_t kWrongShare = 8;

}  // namespace

double BinomialTail(uint64_t n, uint64_t k, double p) {
  if (k == 0) return 1;
  if (k > n || p <= 0) return 0;
  if (p >= 1) return 1;
  const auto log_choose = [n](uint64_t i) {
    const auto real = [](uint64_t x) { return static_cast<double>(x); };
    return std::lgamma(real(n) + 1) - std::lgamma(real(i) + 1) - std::lgamma(real(n - i) + 1);
  };
  double sum = 0;
  for (uint64_t i = k; i <= n; ++i) {
    const double term =
        std::exp(log_choose(i) + static_cast<double>(i) * std::log(p) + static_cast<double>(n - i) * std::log1p(-p));
    sum += term;
    if (static_cast<double>(i) > p * static_cast<double>(n) && term < sum * 1e-12) break;
  }
  return std::min(sum, 1.0);
}

bool SaturationTally::Holds() const {
  return BinomialTail(cells, unsaturated, kDamaged) >= kChance;
}

bool SaturationTally::Fails() const {
  return unsaturated * kWrongShare >= cells && BinomialTail(cells, unsaturated, kDamaged) <= kNoChance;
}

double DamageOf(const SaturationTally& sound) {
  if (sound.cells < kEnough) return kDamaged;
  const auto seen = static_cast<double>(sound.unsaturated);
  return std::max(kLeastDamage, (seen + 3 + 2 * std::sqrt(seen)) / static_cast<double>(sound.cells));
}

void CutCells::Add(const CutCells& other) {
  tally.Add(other.tally);
  least = std::min(least, other.least);
}

double CutCells::Chance() const {
  if (tally.cells == 0) return 1;
  // As many with one or more, each with a chance of at most 1 - least.
  return BinomialTail(tally.cells, tally.cells - tally.unsaturated, 1 - kOfTheLargest * least);
}

GridOfLayer::GridOfLayer(const LayerTiles& layer, const QkvMap& map, const AttentionShape& shape) : layer_(&layer) {
  std::array<uint32_t, 3> first{};
  uint32_t tiles = 0;
  for (size_t array = 0; array < static_cast<size_t>(map.arrays); ++array) {
    first[array] = tiles;
    for (int64_t t = 0; t < layer.arrays[array].tiles; ++t) stored_.emplace_back(static_cast<uint8_t>(array), t);
    tiles += static_cast<uint32_t>(layer.arrays[array].tiles);
  }
  const auto tile_at = [&](uint8_t array, int64_t row) {
    return first[array] + static_cast<uint32_t>(row / layer.tile_rows);
  };
  places_.resize(tiles);
  for (const RowRun& run : map.runs) {
    const int64_t head_rows = run.projection == Projection::kV ? shape.v_head_dim : shape.head_dim;
    for (int64_t row = 0; row < run.rows; row += layer.tile_rows) {
      const int64_t logical = run.logical_row + row;
      places_[tile_at(run.array, run.array_row + row)] = {run.projection, logical / head_rows,
                                                          logical % head_rows / layer.tile_rows};
    }
  }
  cell_of_.resize(tiles);
  std::map<std::pair<uint8_t, int64_t>, uint32_t> known;
  for (const ScaleBand& band : map.bands) {
    const auto [it, fresh] =
        known.emplace(std::pair(band.scale_array, band.scale_row), static_cast<uint32_t>(cells_.size()));
    if (fresh) cells_.push_back({band.scale_array, band.scale_row, false, {}});
    GridCell& cell = cells_[it->second];
    for (int64_t row = band.row_begin; row < band.row_end; row += layer.tile_rows) {
      const uint32_t tile = tile_at(band.array, row);
      cell.tiles.push_back(tile);
      cell.holds_q |= places_[tile].projection == Projection::kQ;
      cell_of_[tile] = it->second;
    }
  }
  for (GridCell& cell : cells_) std::sort(cell.tiles.begin(), cell.tiles.end());
}

uint8_t GridOfLayer::Most(uint32_t tile, int64_t column) const {
  const auto [array, row] = stored_[tile];
  const CodeTiles& tiles = layer_->arrays[array];
  return tiles.most[tiles.At(row, column)];
}

float GridOfLayer::Scale(const GridCell& cell, int64_t column) const {
  const CodeTiles& tiles = layer_->arrays[cell.scale_array];
  return tiles.scales[tiles.At(cell.scale_row, column)];
}

bool GridOfLayer::SameScale(const GridOfLayer& other, uint32_t tile) const {
  const GridCell &mine = cell(tile), &its = other.cell(tile);
  return mine.scale_array == its.scale_array && mine.scale_row == its.scale_row;
}

double GridOfLayer::Level(uint32_t tile, int64_t column) const {
  const auto [array, row] = stored_[tile];
  const CodeTiles& tiles = layer_->arrays[array];
  const auto scale = static_cast<double>(Scale(cell(tile), column));
  const double level = static_cast<double>(tiles.level[tiles.At(row, column)]) + std::log(scale);
  return scale > 0 && std::isfinite(level) ? level : NAN;
}

SaturationTally GridOfLayer::CountOne(const GridCell& cell, const std::vector<uint32_t>& tiles, int64_t column) const {
  uint8_t most = 0;
  for (const uint32_t tile : tiles) most = std::max(most, Most(tile, column));
  if (most == 0 || Scale(cell, column) == 0) return {};
  return {1, most < kLargestCode ? uint64_t{1} : uint64_t{0}};
}

// `wanted` gives the tiles of a cell that count, none to leave it out.
template <class Wanted>
SaturationTally GridOfLayer::Count(Wanted wanted) const {
  SaturationTally tally;
  for (const GridCell& cell : cells_) {
    const std::vector<uint32_t> tiles = wanted(cell);
    if (tiles.empty()) continue;
    for (int64_t column = 0; column < columns(); ++column) tally.Add(CountOne(cell, tiles, column));
  }
  return tally;
}

SaturationTally GridOfLayer::Q() const {
  return Count([](const GridCell& cell) { return cell.holds_q ? cell.tiles : std::vector<uint32_t>(); });
}

SaturationTally GridOfLayer::Kv() const {
  return Count([](const GridCell& cell) { return cell.holds_q ? std::vector<uint32_t>() : cell.tiles; });
}

SaturationTally GridOfLayer::CutInTwo() const {
  return Count([](const GridCell& cell) {
    return std::vector<uint32_t>(cell.tiles.begin(), cell.tiles.begin() + static_cast<int64_t>(cell.tiles.size() / 2));
  });
}

SaturationTally GridOfLayer::Differing(const GridOfLayer& other) const {
  return Count([&](const GridCell& cell) {
    return other.cell(cell.tiles[0]).tiles == cell.tiles ? std::vector<uint32_t>() : cell.tiles;
  });
}

SaturationTally GridOfLayer::Common(const GridOfLayer& other) const {
  return Count([&](const GridCell& cell) {
    return other.cell(cell.tiles[0]).tiles == cell.tiles ? cell.tiles : std::vector<uint32_t>();
  });
}

bool GridOfLayer::Tells(const GridCell& cell, const GridOfLayer& truth) const {
  return std::none_of(cell.tiles.begin(), cell.tiles.end(), [&](uint32_t tile) {
    const std::vector<uint32_t>& its = truth.cell(tile).tiles;
    return std::includes(cell.tiles.begin(), cell.tiles.end(), its.begin(), its.end());
  });
}

SaturationTally GridOfLayer::Telling(const GridOfLayer& truth) const {
  return Count([&](const GridCell& cell) { return Tells(cell, truth) ? cell.tiles : std::vector<uint32_t>(); });
}

double GridOfLayer::CodeLevel(uint32_t tile, int64_t column) const {
  const auto [array, row] = stored_[tile];
  const CodeTiles& tiles = layer_->arrays[array];
  return static_cast<double>(tiles.level[tiles.At(row, column)]);
}

CutCells GridOfLayer::CutOutOf(const GridOfLayer& truth) const {
  CutCells cut;
  for (const GridCell& cell : cells_) {
    if (!Tells(cell, truth)) continue;
    double none = 1;  // the chance that no block of `truth` has its largest code here
    std::vector<const GridCell*> blocks;
    for (const uint32_t tile : cell.tiles)
      if (const GridCell* block = &truth.cell(tile); blocks.empty() || blocks.back() != block) blocks.push_back(block);
    for (const GridCell* block : blocks) {
      const auto here = std::count_if(block->tiles.begin(), block->tiles.end(), [&](uint32_t tile) {
        return std::binary_search(cell.tiles.begin(), cell.tiles.end(), tile);
      });
      none *= 1 - static_cast<double>(here) / static_cast<double>(block->tiles.size());
    }
    for (int64_t column = 0; column < columns(); ++column) {
      const bool alike = std::all_of(blocks.begin(), blocks.end(), [&](const GridCell* block) {
        double least = INFINITY, most = -INFINITY;
        for (const uint32_t tile : block->tiles) {
          least = std::min(least, CodeLevel(tile, column));
          most = std::max(most, CodeLevel(tile, column));
        }
        return most - least <= kAlike;
      });
      if (alike) cut.Add({CountOne(cell, cell.tiles, column), none});
    }
  }
  return cut;
}

}  // namespace mimo
