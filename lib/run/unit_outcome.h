// What one unit came to: what its record holds, and what it adds to the results of a run.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "lib/results/manifest.h"
#include "lib/run/record_json.h"

namespace mimo {

// Bytes of an item of the source (Catalogue::items) that a unit has read, as what they add to its CRC-32.
struct ItemRead {
  uint32_t item = 0;
  uint32_t crc = 0;
  std::vector<std::pair<uint64_t, uint64_t>> ranges;  // disjoint [begin, end) from the start of the file, ascending
};

// Bytes of a page that others write to as well, which whoever joins the parts writes.
struct EdgeBytes {
  uint32_t file = 0;    // into Plan::files
  uint64_t offset = 0;  // in the file
  std::string bytes;
};

struct UnitOutcome {
  RecordedResults results;  // of the outputs that it wrote to or hashed, ascending; hashes are of its rows alone
  std::map<uint32_t, uint32_t> crcs;  // by output, in files whose container has checksums: what it adds (crc32.h)
  std::vector<ItemRead> items;        // by item
  std::vector<EdgeBytes> edges;       // by (file, offset)
};

// Adds to what other units came to, each once.
void MergeInto(const UnitOutcome& unit, RunResults* results);

}  // namespace mimo
