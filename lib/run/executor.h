// Runs a plan: fuse groups in bounded memory, read -> transform -> write in one pass, then publication
// (docs/formats.md).
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/progress.h"
#include "lib/base/status.h"
#include "lib/plan/plan.h"
#include "lib/results/errors.h"

namespace mimo {

enum class LinkMode : uint8_t { kCopy, kHard, kSym, kReflink };
enum class DeviceChoice : uint8_t { kAuto, kCpu, kCuda };

// Everything that may not change the bytes of the result.
struct RunOptions {
  std::string output;               // OUT
  LinkMode link = LinkMode::kCopy;  // for files whose every tensor is unchanged, and for carried files
  bool hash_linked = false;         // read linked files too, for their hashes
  DeviceChoice device = DeviceChoice::kAuto;
  int cuda_device = 0;
  int threads = 0;                         // 0: one per core
  uint64_t memory_bytes = 0;               // budget for data in flight; 0: min(8 GiB, a quarter of RAM)
  bool overwrite = false;                  // replace what OUT holds, once the new output is complete
  bool resume = false;                     // continue OUT/.mimo-partial of the same plan
  bool measure_errors = false;             // of encoded weights, into the manifest
  std::vector<Threshold> thresholds;       // need measure_errors; what does not hold makes the output rejected
  bool allow_anomalies = false;            // NaN codes, bad scales, overflows: count, do not stop
  ProgressObserver* progress = nullptr;    // may be null
  const std::atomic<int>* stop = nullptr;  // a signal number once the user wants to stop; checked between steps
};

struct RunReport {
  kernels::Anomalies anomalies;
  uint64_t bytes_read = 0;
  uint64_t bytes_written = 0;
  uint64_t files_written = 0;
  uint64_t files_linked = 0;
  uint64_t groups_resumed = 0;      // file groups found complete
  uint64_t moved_blocks = 0;        // kRelayout blocks copied with their scale
  uint64_t equal_scale_blocks = 0;  // straddling blocks whose source scales were bit-equal: exact too
  uint64_t requantized_blocks = 0;
  double squared_error = 0, squared_sum = 0;  // over re-quantized blocks, and kRelayout blocks made from values
  uint64_t encoded_blocks = 0;                // blocks of weights that were made in a block codec
  uint64_t exact_blocks = 0;                  // of these, moved without arithmetic on their elements
  uint64_t kept_blocks = 0;    // made from values, of both kinds: under the scale that was there (EncodedWeight::keep)
  uint64_t fresh_blocks = 0;   // and under one made anew
  uint64_t inexact_codes = 0;  // codes that lost a bit where they were adjusted (OutputArray::adjust)
  uint64_t groups_read_twice = 0;       // fuse groups larger than the memory budget
  std::vector<std::string> rejections;  // thresholds that do not hold
  std::string error_report;             // JSON (schemas/report.schema.json); "" unless errors were measured
  double seconds = 0;
  std::string device;  // "cpu (avx2)" or the GPU's name
};

// kUsage: OUT not empty without overwrite or resume, OUT inside the checkpoint or the reverse, resume of another plan.
// kBadInput: the data is malformed or anomalous (nothing is published, the partial directory is removed). kIo, kDevice,
// kInterrupted: OUT/.mimo-partial stays for --resume. `catalogue` is the one the plan was made from.
Result<RunReport> RunPlan(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, const RunOptions& options);

// The checks of RunPlan that need no work: call them before planning or a dry run, to fail early.
Status CheckOutput(FileSystem& fs, const std::string& checkpoint, const RunOptions& options);

// min(8 GiB, a quarter of RAM).
uint64_t DefaultMemoryBytes();

}  // namespace mimo
