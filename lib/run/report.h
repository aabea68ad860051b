// What a run came to.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/convert.h"
#include "lib/results/block_counts.h"
#include "lib/results/checksums.h"

namespace mimo {

struct RunReport {
  kernels::Anomalies anomalies;
  BlockCounts blocks;  // of the whole output, whatever an earlier run made of it
  uint64_t bytes_read = 0;
  uint64_t bytes_written = 0;
  uint64_t files_written = 0;
  uint64_t files_linked = 0;
  uint64_t groups_resumed = 0;          // file groups found complete
  uint64_t units_resumed = 0;           // and, in others, units
  uint64_t units = 0;                   // of the whole output (units.h); 0 where it was complete before
  uint64_t units_made = 0;              // by this run
  uint64_t units_left = 0;              // for other parts
  bool part = false;                    // a part was made, and nothing published
  ChecksumCounts checksums;             // of the whole source, whatever an earlier run read of it
  std::vector<std::string> unverified;  // stored arrays in items that are not compared; empty where OUT was complete
  uint64_t groups_read_twice = 0;       // fuse groups larger than the memory budget
  std::vector<std::string> rejections;  // thresholds that do not hold
  std::string error_report;             // JSON (schemas/report.schema.json); "" unless errors were measured
  uint64_t values_hashed = 0;           // tensors of which the manifest holds a hash of their values
  double seconds = 0;
  int threads = 0;            // workers that were asked for; 0 where the output was complete before
  uint64_t memory_bytes = 0;  // the budget; likewise
  bool read_direct = false;   // tensor files, past the page cache
  bool written_direct = false;
  bool queued = false;  // with requests of a thread under way together (io_uring)
  std::string device;   // "cpu (avx2)", the GPU's name, or "none" where the output was complete before
};

}  // namespace mimo
