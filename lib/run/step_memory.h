// What parts of a step come to: payload bytes, for progress. Their memory is declared in steps.h.
#pragma once

#include "lib/run/steps.h"

namespace mimo {

inline constexpr uint64_t kSlack = 64;  // alignment of one range in the buffer

uint64_t StripProgress(const Job& job, const RowStrip& strip);
uint64_t CellProgress(const Job& job, const CellRow& cell);

}  // namespace mimo
