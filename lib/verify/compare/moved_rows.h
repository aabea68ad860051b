// Rows of a tensor that are found elsewhere: in other places of it, or in its neighbours of the layer.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lib/verify/compare/cells.h"
#include "lib/verify/compare/sketch.h"
#include "lib/verify/compare/units.h"

namespace mimo {

// The other projections of a tensor's attention, or the other half of its gate and up, in A.
std::vector<const LogicalTensor*> NeighboursOf(const LogicalCheckpoint& a, const LogicalTensor& tensor);

class MovedRows {
 public:
  // Both outlive it.
  MovedRows(const LogicalCheckpoint& a, const LogicalCheckpoint& b) : a_(a), b_(b) {}

  // Where the rows of B's tensor come from that `map` says are not A's. Kind "" when that is nowhere. kIo.
  Result<PlaceFinding> Find(const TensorPair& pair, const CellMap& map);

 private:
  struct Match {
    int64_t row = 0;  // of B
    const LogicalTensor* tensor = nullptr;
    int64_t from = 0;  // row of A's `tensor`
  };
  using Sketches = std::vector<RowSketch>;

  Result<const Sketches*> SketchOf(const LogicalTensor& tensor);
  PlaceFinding InItself(const LogicalTensor& tensor, const std::vector<Match>& matches, size_t looked) const;
  PlaceFinding InOthers(const LogicalTensor& tensor, const std::vector<Match>& matches, size_t looked) const;
  PlaceFinding OtherChunks(const LogicalTensor& tensor, const std::vector<Match>& matches, size_t foreign) const;
  int64_t HeadRows(const TensorId& id) const;

  const LogicalCheckpoint& a_;
  const LogicalCheckpoint& b_;
  // Of A, the last that were asked for: those of one layer.
  std::map<const LogicalTensor*, Sketches> kept_;
  std::optional<std::pair<bool, int32_t>> kept_layer_;
};

}  // namespace mimo
