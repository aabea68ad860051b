// Two tensors side by side in cells of one row and 128 columns: where they are the same, where one is a multiple of the
// other, where neither.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/verify/compare/row_stream.h"

namespace mimo {

inline constexpr int64_t kCellColumns = 128;

enum class CellKind : uint8_t {
  kEmpty,     // all zeros in both
  kSame,      // but for noise
  kMultiple,  // by CellMap::ratio
  kOther,
};

struct CellMap {
  int64_t rows = 0, across = 0;  // cells
  std::vector<CellKind> kinds;   // by (row, column of cells)
  std::vector<float> ratios;     // of kSame and kMultiple: B / A
  std::vector<float> amax;       // of A
  CellKind kind(int64_t row, int64_t col) const { return kinds[static_cast<size_t>(row * across + col)]; }
  float ratio(int64_t row, int64_t col) const { return ratios[static_cast<size_t>(row * across + col)]; }
  uint64_t CountOf(CellKind kind) const;
};

Result<CellMap> MapCells(const LogicalCheckpoint& a, const LogicalTensor& in_a, const LogicalCheckpoint& b,
                         const LogicalTensor& in_b);

// What a map tells of how values differ in their places. `kind` "" where it tells nothing.
struct PlaceFinding {
  std::string kind, evidence;
  double factor = 0;  // values.scaled
};

// One factor for all, or nearly all, of what differs.
PlaceFinding FindFactor(const CellMap& map);
// Scales that are those of other blocks: multipliers at every 64th row and 128th column of a side that has scales
// (`of_a`: that of A), or none, and then the largest values of A stand for them.
PlaceFinding FindScales(const CellMap& map, const std::vector<float>& multipliers, bool of_a);

}  // namespace mimo
