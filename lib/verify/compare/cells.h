// Two tensors side by side in cells of one row and 128 columns: where they are the same, where one is a multiple of the
// other, where neither.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/verify/compare/row_stream.h"

namespace mimo {

inline constexpr int64_t kCellColumns = 128;
// How far the ratio of two cells may be from that of equal ones: noise of codecs moves it, and by less.
inline constexpr double kRatioNoise = 0.05;

enum class CellKind : uint8_t {
  kEmpty,     // all zeros in both
  kSame,      // but for noise
  kMultiple,  // by CellMap::ratio
  kOther,
};

// Dot products of a cell, and what follows from them.
struct CellSums {
  double dot = 0, aa = 0, bb = 0;
  void Add(float a, float b) {
    const double x = a, y = b;
    dot += x * y;
    aa += x * x;
    bb += y * y;
  }
  CellKind Kind() const;
  float ratio() const { return aa > 0 ? static_cast<float>(dot / aa) : 0; }  // B / A
};

struct CellMap {
  int64_t rows = 0, across = 0;  // cells
  std::vector<CellKind> kinds;   // by (row, column of cells)
  std::vector<float> ratios;     // of kSame and kMultiple: B / A
  CellKind kind(int64_t row, int64_t col) const { return kinds[static_cast<size_t>(row * across + col)]; }
  float ratio(int64_t row, int64_t col) const { return ratios[static_cast<size_t>(row * across + col)]; }
  uint64_t CountOf(CellKind kind) const;
  uint64_t told() const { return kinds.size() - CountOf(CellKind::kEmpty); }
};

// kIo.
Result<CellMap> MapCells(const LogicalCheckpoint& a, const LogicalTensor& in_a, const LogicalCheckpoint& b,
                         const LogicalTensor& in_b);

// What is found of how two tensors differ. `kind` "" where nothing is.
struct PlaceFinding {
  std::string kind, evidence;
  double factor = 0;  // values.scaled
};

// Whether cells that are the same have other ratios than 1 by more than rounding makes.
bool IsNoisy(const CellMap& map);

// Whether `explained` places of `told` are enough to name what befell them, when `left` differ for no reason that is
// known: a few may be damaged on top of anything.
bool IsEnough(uint64_t explained, uint64_t left, uint64_t told);

// "%.6g" and the like, of one number.
std::string FormatNumber(const char* format, double value);

// Which rows of a head or of a block are marked in all of them, "rows 96 to 127 of every 192"; "" where that is no run.
std::string RowsOfEvery(const std::vector<uint8_t>& marked);

// One factor for all, or nearly all, of what differs: values.scaled, values.scaled-part, scale.single.
PlaceFinding FindFactor(const CellMap& map);
// A factor for every row, and not the same: rows.scaled.
PlaceFinding FindRowFactors(const CellMap& map);

}  // namespace mimo
