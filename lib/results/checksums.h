// What became of the CRC-32s that the source holds: those of torch.save items.
#pragma once

#include <cstdint>

namespace mimo {

// Storages of torch.save items of a source; all zero where its files hold no checksums. The same on any number of
// threads, in any memory, and whether a run was resumed.
struct ChecksumCounts {
  uint64_t verified = 0;    // read whole and compared, or compared with a replica that was
  uint64_t unverified = 0;  // not read, or not whole: filtered out, dropped, more than half of them not needed
  uint64_t without = 0;     // saved without one
  bool any() const { return verified + unverified + without > 0; }
};

}  // namespace mimo
