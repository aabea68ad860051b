// How a plan is run: everything that may not change the bytes of the result.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/progress.h"
#include "lib/owner/lease.h"
#include "lib/results/errors.h"
#include "lib/run/part.h"

namespace mimo {

class SourceGuard;
class ValueHasher;

enum class LinkMode : uint8_t { kCopy, kHard, kSym, kReflink };
// How tensor files are read and written. kAuto: past the page cache (O_DIRECT) where it is of no use, because what is
// read or written is more than half of the memory that the process may use, and the file system can.
// kDirect: always, with requests of a thread under way together where the system can (io_uring). kDirectSingle: always,
// one request of a thread at a time.
enum class IoMode : uint8_t { kAuto, kDirect, kDirectSingle, kBuffered };
constexpr bool IsDirect(IoMode mode) {
  return mode == IoMode::kDirect || mode == IoMode::kDirectSingle;
}
constexpr DirectMode DirectModeOf(IoMode mode) {
  return mode == IoMode::kDirectSingle ? DirectMode::kSingle : DirectMode::kQueued;
}
enum class DeviceChoice : uint8_t { kAuto, kCpu, kCuda };

// What a user may do about a worker that stopped.
inline constexpr char kStoppedAdvice[] = "lower --memory or --threads and run again with --resume";

struct RunOptions {
  std::string output;               // OUT
  LinkMode link = LinkMode::kCopy;  // for tensor files whose every tensor is unchanged, carried ones included
  bool hash_linked = false;         // read linked files too, for their hashes
  DeviceChoice device = DeviceChoice::kAuto;
  int cuda_device = 0;
  IoMode io = IoMode::kAuto;
  int threads = 0;                         // 0: one per CPU that the process may use (lib/base/machine.h)
  uint64_t memory_bytes = 0;               // budget for data in flight; 0: DefaultMemoryBytes()
  bool overwrite = false;                  // replace what OUT holds, once the new output is complete
  bool force = false;                      // even where nothing shows that it is an output
  bool resume = false;                     // continue OUT/.mimo-partial of the same plan
  std::optional<RunPart> part;             // make this share of the units, and publish nothing (executor.h)
  bool join = false;                       // publish what parts have made, and make nothing
  std::vector<std::string> command;        // what a later join may be told from OUT alone; opaque
  bool measure_errors = false;             // of encoded weights, into the manifest
  std::vector<Threshold> thresholds;       // need measure_errors; what does not hold makes the output rejected
  ValueHasher* hash_values = nullptr;      // null: no hashes of values in the manifest
  SourceGuard* guard = nullptr;            // null: nothing is asked of the source beyond the plan
  bool allow_anomalies = false;            // NaN codes, bad scales, overflows: count, do not stop
  uint64_t unit_bytes = 0;                 // size of a unit (units.h); 0: kUnitBytes. All who work on one OUT have one
  ProgressObserver* progress = nullptr;    // may be null
  const std::atomic<int>* stop = nullptr;  // a signal number once the user wants to stop; checked between steps
  BatchJob job;                            // that this process belongs to: its requeued start takes OUT over
  LeaseTimes lease;
};

}  // namespace mimo
