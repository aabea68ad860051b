// The layouts that stored attention is tried against, whether or not anything names them: every chunk count that the
// heads allow, every split, and the readings of them that people got wrong. Shapes alone; trial.h asks the data.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "lib/layout/row_map.h"
#include "lib/model/catalogue.h"
#include "lib/model/inventory.h"

namespace mimo {

struct TestedLayout {
  QkvLayout layout;
  // The grid begins anew at Q, K and V of every chunk instead of running over the whole chunk: nobody is known to write
  // it, several readers took the released files for it, and its shapes are theirs.
  bool apart = false;
  bool operator==(const TestedLayout&) const = default;
  std::string ToString() const;  // "fused(4)", "split(4) with grids apart"
};

// The map of `shape` under it; requires LayoutFits(tested.layout, shape).
QkvMap MapOf(const TestedLayout& tested, const AttentionShape& shape, int64_t block_rows);

// What is stored of one layer, in the order of QkvMap's arrays.
struct StoredAttention {
  uint32_t attention = 0;  // into Inventory::attention
  bool windowed = false;
  bool in_blocks = false;  // every array is FP8 under a grid of blocks
  std::array<int64_t, 3> rows{};
  std::array<int64_t, 3> scale_rows{-1, -1, -1};  // -1 where there is no grid of blocks
};
// Layers whose projections are all stored, in the order of Inventory::attention.
std::vector<StoredAttention> StoredAttentionOf(const Catalogue& catalogue, const Inventory& inventory);

struct Candidate {
  TestedLayout tested;
  std::vector<TestedLayout> same;  // others that mean the same rows and scales in every stored layer
  std::string misfit;              // what no layer of this layout would have; empty: it fits all of them
  bool fits() const { return misfit.empty(); }
};

// All layouts of the stored kind (fused or split), by chunks, and `declared` ones of that kind even where nobody would
// try them. Heads are those that are stored (ModelConfig::attention): a file with replicas is one of a model with as
// many heads. Those that fit and mean the same are one candidate. Empty without layers.
std::vector<Candidate> CandidatesFor(const ModelConfig& config, const std::vector<StoredAttention>& layers, bool fused,
                                     const std::vector<QkvLayout>& declared);

// Whether two maps of one shape take every row from under the same scale.
bool SameGrid(const QkvMap& a, const QkvMap& b);

}  // namespace mimo
