// FP8 attention summed up by tiles that no border of any layout cuts: all that trial.h asks of the codes.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/model/catalogue.h"
#include "lib/model/inventory.h"

namespace mimo {

// One array of E4M3 codes as a grid of tiles: `tile_rows` rows by one column block. What is indexed by tile is [row of
// tiles][column block].
struct CodeTiles {
  int64_t tiles = 0;          // rows of tiles
  int64_t columns = 0;        // column blocks
  std::vector<uint8_t> most;  // the largest magnitude code, 0 to 0x7E; NaN codes are left out
  // Natural log of (mean |value of the code|^1/2)^2, a norm that few large elements do not make up alone; NaN where all
  // codes are zero.
  std::vector<float> level;
  int64_t scale_rows = 0;
  std::vector<float> scales;  // of the array beside it, as stored: [scale row][column block]

  size_t At(int64_t tile, int64_t column) const { return static_cast<size_t>(tile * columns + column); }
};

struct LayerTiles {
  std::string name;  // of its first array
  bool windowed = false;
  int64_t tile_rows = 0;
  std::array<CodeTiles, 3> arrays;  // fused {qkv}, split {q, k, v}
};

// Rows of a tile: the largest number that divides heads of Q, K and V and half a block (a block of odd height whole); 0
// where that is below 8, too little to tell anything by.
int64_t CodeTileRows(const AttentionShape& shape, int64_t block_rows);

// `rows` x `columns` codes, `rows` a multiple of `tile_rows`; scales are left empty.
CodeTiles SumUp(const uint8_t* codes, int64_t rows, int64_t columns, int64_t tile_rows, int64_t block_columns);

// Reads all codes and scales of the layers (indices into Inventory::attention, all of them in blocks), a few MB at a
// time on each of `threads` threads (0: one per CPU that the process may use). Layers whose tiles would be too small
// are left out. kIo: a file cannot be read.
Result<std::vector<LayerTiles>> ReadCodeTiles(FileSystem& fs, const Catalogue& catalogue, const Inventory& inventory,
                                              const std::vector<uint32_t>& layers, int threads);

}  // namespace mimo
