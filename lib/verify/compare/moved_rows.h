// Rows of a tensor that are found elsewhere: in other places of it, in its neighbours of the layer, in other experts
// and layers, or turned over.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lib/verify/compare/cells.h"
#include "lib/verify/compare/sketch.h"
#include "lib/verify/compare/units.h"

namespace mimo {

class MovedRows {
 public:
  // Both outlive it.
  MovedRows(const LogicalCheckpoint& a, const LogicalCheckpoint& b) : a_(a), b_(b) {}

  // Where the rows of B's tensor come from that `map` says are not A's. Kind "" when that is nowhere.
  Result<PlaceFinding> Find(const TensorPair& pair, const CellMap& map);

 private:
  struct Match {
    int64_t row = 0;  // of B
    const LogicalTensor* tensor = nullptr;
    int64_t from = 0;  // row of A's `tensor`
  };
  using Sketches = std::vector<RowSketch>;

  Result<const Sketches*> SketchOf(const LogicalTensor& tensor);
  std::vector<const LogicalTensor*> Neighbours(const LogicalTensor& tensor) const;
  std::vector<const LogicalTensor*> Counterparts(const LogicalTensor& tensor) const;
  PlaceFinding InItself(const LogicalTensor& tensor, const std::vector<Match>& matches, size_t looked) const;
  PlaceFinding InOthers(const LogicalTensor& tensor, const std::vector<Match>& matches, size_t looked) const;
  PlaceFinding OtherChunks(const LogicalTensor& tensor, const std::vector<Match>& matches) const;
  Result<PlaceFinding> Counterpart(const TensorPair& pair, const Sketches& rows_of_b);
  Result<PlaceFinding> Turned(const TensorPair& pair, const Sketches& rows_of_b);
  int64_t HeadRows(const TensorId& id) const;

  const LogicalCheckpoint& a_;
  const LogicalCheckpoint& b_;
  // Of A, the last that were asked for: those of one layer.
  std::map<const LogicalTensor*, Sketches> kept_;
  std::optional<std::pair<bool, int32_t>> kept_layer_;
};

}  // namespace mimo
