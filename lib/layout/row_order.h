// The row order of fused attention that lies under no block grid, told by the rows themselves. Rows of Q, K and V
// differ in their norms, and the rows of a head by where they stand in it (rotary dimensions come first); under the
// right fused(C) all rows of a class are alike, under a wrong one classes mix. Pure arithmetic: no files.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/model/config.h"

namespace mimo {

// One fused array as a series of tiles, each of `tile_rows` consecutive rows that no border of any layout cuts.
struct RowProfile {
  bool windowed = false;
  int64_t tile_rows = 0;
  std::vector<float> tiles;  // natural log of the usual row norm of each tile, up to a constant of the array; NaN: none
};

// "In layers of one kind, or in all of them, fused(better) explains the rows and fused(worse) does not": established,
// not merely a better fit.
struct RowDuel {
  int64_t better = 0;
  int64_t worse = 0;
  bool operator==(const RowDuel&) const = default;
};

struct RowOrder {
  std::vector<int64_t> chunks;  // every C that all sampled layers could have, ascending; empty: nothing was looked at
  std::vector<RowDuel> duels;   // what the rows decide; chunk counts that one kind of layers alone has included
  std::vector<std::string> sampled;  // tensors whose rows were read

  // Whether the rows contradict fused(chunks).
  bool Contradicts(int64_t chunks) const;
  // The one layout that beats every other that is possible, and that nothing beats.
  std::optional<int64_t> Proven() const;
  // Layouts of `chunks` that nothing beats.
  std::vector<int64_t> Unbeaten() const;
};

// Rows of a tile for `shape`: the largest number that divides the heads of Q and K and those of V; 0 when that is too
// small to tell rows by (below 8).
int64_t TileRows(const AttentionShape& shape);

// What the profiles decide. Never by chance: a layout wins only by far more than noise gives, whose size is taken from
// the rows (heads that differ from their neighbours, and slow drifts, count as noise).
RowOrder OrderOfRows(const std::vector<RowProfile>& profiles, const AttentionShape& global,
                     const AttentionShape& window);

}  // namespace mimo
