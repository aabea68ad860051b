// Progress as an interface: the library reports, a tool prints.
#pragma once

#include <cstdint>

namespace mimo {

// How much there is to do, and how much of it was done before.
struct ProgressTotals {
  uint64_t bytes = 0, bytes_before = 0;
  uint64_t units = 0, units_before = 0;  // 0 units: it has none
  uint64_t files = 0, files_before = 0;
};

class ProgressObserver {
 public:
  virtual ~ProgressObserver() = default;
  virtual void Start(uint64_t total_bytes) = 0;
  virtual void StartFrom(const ProgressTotals& totals) { Start(totals.bytes - totals.bytes_before); }
  virtual void Advance(uint64_t bytes) = 0;  // from any thread, as those below
  virtual void UnitDone() {}
  virtual void FileDone() {}
  virtual void Step(const char* what) = 0;  // "syncing", "publishing"
  virtual void Finish() = 0;
};

}  // namespace mimo
