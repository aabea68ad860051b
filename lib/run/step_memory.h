// What parts of a step come to: buffer bytes, alignment included, and payload bytes, for progress.
#pragma once

#include "lib/run/steps.h"

namespace mimo {

uint64_t StripMemory(const Job& job, const RowStrip& strip);
uint64_t CellMemory(const Job& job, const CellRow& cell);
uint64_t TurnMemory(const Job& job, const TurnUnit& unit);
uint64_t EncodeMemory(const Job& job, const EncodeStrip& strip, GlobalPass pass);

// The largest count up to `most` that fits, 1 if none does; what is below a count that fits does so too.
template <class Fits>
int64_t LargestThatFits(int64_t most, const Fits& fits) {
  int64_t low = 1;
  while (low < most) {
    const int64_t middle = low + (most - low + 1) / 2;
    if (fits(middle)) {
      low = middle;
    } else {
      most = middle - 1;
    }
  }
  return low;
}

uint64_t StripProgress(const Job& job, const RowStrip& strip);
uint64_t CellProgress(const Job& job, const CellRow& cell);

}  // namespace mimo
