// Values under other scales than theirs: those of other blocks, none, the inverse, rounded ones.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/verify/compare/cells.h"
#include "lib/verify/compare/units.h"

namespace mimo {

// Two tensors in cells that lie under one scale each: `every` rows by `width` columns.
struct ScaleMap {
  int64_t every = 1, width = 128;
  int64_t rows = 0, across = 0;  // cells
  std::vector<CellKind> kinds;   // by (row, column of cells)
  // The scale that a cell is under, and the one that the other side's values are multiples of; 0 where that is not
  // told. Of sides without scales the largest values of blocks stand for them.
  std::vector<float> right, seen;
  bool exact = true;  // `right` are scales
  size_t at(int64_t row, int64_t col) const { return static_cast<size_t>(row * across + col); }
};

// kIo.
Result<ScaleMap> MapScales(const LogicalCheckpoint& a, const LogicalCheckpoint& b, const TensorPair& pair);

// Rows of scales that another tensor beside it has, of as many cells across.
struct ScaleRows {
  std::string name;
  std::vector<float> scales;  // [rows][across]
};

// The scale.* kinds. `beside`: what is stored beside the tensor under the same kind of scales.
PlaceFinding FindScales(const ScaleMap& map, const std::vector<ScaleRows>& beside);

// The scales of a tensor in cells as those of `map`; of none when they cannot be held against each other. kIo.
Result<ScaleRows> ReadScaleRows(const LogicalCheckpoint& checkpoint, const LogicalTensor& tensor, const ScaleMap& map);

// Whether a factor of all values is that of a global scale that was left out or turned over: scale.global-dropped,
// scale.global-inverted. Kind "" where it is not.
PlaceFinding FindGlobalScale(const std::vector<float>& multipliers, double factor);

}  // namespace mimo
