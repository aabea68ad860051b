// Transposed outputs in units: target rows that share pieces or source rows. A unit is read whole, so that every source
// byte is read once; it is one expert's rectangles where experts are stacked.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/run/steps.h"

namespace mimo {

// The transposed outputs of a group that are not skipped, by place in the source files.
std::vector<TurnUnit> TurnsOf(const Job& job, uint32_t group);

// The pieces of some rows of a unit.
std::span<const Piece> PiecesOf(const Job& job, const TurnRows& rows);

// Rows of sources that a unit reads, each once; by source and row.
struct TurnSource {
  uint32_t source = 0;
  int64_t row = 0;
  int64_t rows = 0;
  bool decoded = false;  // its scales are needed
};
std::vector<TurnSource> SourcesOf(const Job& job, const TurnUnit& unit);

// Payload bytes read and written.
uint64_t TurnProgress(const Job& job, const TurnUnit& unit);

}  // namespace mimo
