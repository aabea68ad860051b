// The cells of a supposed block grid over attention that was summed up (code_tiles.h), and whether they look like
// blocks of a quantizer that divides by the largest value: such a block holds a code of magnitude 448. Pure arithmetic.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/layout/code_tiles.h"
#include "lib/layout/row_map.h"

namespace mimo {

// P(at least k of n) where each happens with probability p, independently.
double BinomialTail(uint64_t n, uint64_t k, double p);

// Cells (a row of scales x a column block), and those of them without a code of magnitude 448. Cells of zeros and cells
// under a scale of zero are not counted.
struct SaturationTally {
  uint64_t cells = 0;
  uint64_t unsaturated = 0;
  void Add(const SaturationTally& other) { cells += other.cells, unsaturated += other.unsaturated; }
  // What blocks look like of which up to 3 % are damaged; also true of no cells.
  bool Holds() const;
  // What blocks never look like, damaged or not: at least one in eight without, and not by chance (2e-5).
  bool Fails() const;
};

// The largest chance that counts as none, and how many blocks may be damaged where `sound`, blocks that nobody doubts,
// tell it.
inline constexpr double kNoChance = 2e-5;
double DamageOf(const SaturationTally& sound);

// Cells that would be cut out of blocks, and the least chance of one of them to hold no saturated code.
struct CutCells {
  SaturationTally tally;
  double least = 1;
  void Add(const CutCells& other);
  // P(as few without a saturated code or fewer); 1 of none.
  double Chance() const;
};

// Where rows lie: a tile of a layer.
struct TilePlace {
  Projection projection = Projection::kQ;
  int64_t head = 0;
  int64_t place = 0;  // of the tile in its head
};

struct GridCell {
  uint8_t scale_array = 0;
  int64_t scale_row = 0;
  bool holds_q = false;
  std::vector<uint32_t> tiles;  // ascending; counted through all arrays of the layer
};

// One layer under one map.
class GridOfLayer {
 public:
  // `layer` outlives it. `map` has the rows and scale rows of the layer; its borders are those of tiles.
  GridOfLayer(const LayerTiles& layer, const QkvMap& map, const AttentionShape& shape);

  uint32_t tiles() const { return static_cast<uint32_t>(cell_of_.size()); }
  bool windowed() const { return layer_->windowed; }
  int64_t columns() const { return layer_->arrays[0].columns; }
  const TilePlace& place(uint32_t tile) const { return places_[tile]; }
  const GridCell& cell(uint32_t tile) const { return cells_[cell_of_[tile]]; }
  bool SameScale(const GridOfLayer& other, uint32_t tile) const;
  // Log of the norm of the values in a tile and column block; NaN for zeros.
  double Level(uint32_t tile, int64_t column) const;

  SaturationTally Q() const;   // cells that hold rows of Q
  SaturationTally Kv() const;  // the others
  // The first tiles of cells that are taller, as if they were cells: what blocks cut in two look like. Where they hold
  // too, a saturated code tells nothing.
  SaturationTally CutInTwo() const;
  // Cells that `other` cuts otherwise.
  SaturationTally Differing(const GridOfLayer& other) const;
  // Cells that both have.
  SaturationTally Common(const GridOfLayer& other) const;
  // Cells that need not hold a saturated code if `truth` is the grid: no whole cell of it lies in them.
  SaturationTally Telling(const GridOfLayer& truth) const;
  // Of those, the ones cut out of blocks of `truth` in which all rows are alike, so that the largest may lie anywhere.
  CutCells CutOutOf(const GridOfLayer& truth) const;

 private:
  template <class Wanted>
  SaturationTally Count(Wanted wanted) const;
  bool Tells(const GridCell& cell, const GridOfLayer& truth) const;
  SaturationTally CountOne(const GridCell& cell, const std::vector<uint32_t>& tiles, int64_t column) const;
  uint8_t Most(uint32_t tile, int64_t column) const;
  double CodeLevel(uint32_t tile, int64_t column) const;
  float Scale(const GridCell& cell, int64_t column) const;

  const LayerTiles* layer_;
  std::vector<std::pair<uint8_t, int64_t>> stored_;  // by tile: array and tile of it
  std::vector<TilePlace> places_;
  std::vector<GridCell> cells_;
  std::vector<uint32_t> cell_of_;
};

}  // namespace mimo
