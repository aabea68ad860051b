// Completes files whose arrays are written: what their containers put around the data may depend on its CRC-32.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/plan/plan.h"
#include "lib/run/step_work.h"

namespace mimo {

// Thread-safe.
class Completion {
 public:
  // `plan` outlives it.
  explicit Completion(const Plan& plan) : plan_(plan) {}

  // Takes note of bytes that are written, in any order; of each byte once.
  void Add(const WriteJob& write);
  // Writes what is missing of a file whose header and arrays are complete.
  Status Complete(const PlanFile& file, WritableFile& out);

 private:
  const Plan& plan_;
  std::mutex mutex_;
  std::vector<uint32_t> crcs_;  // per output, of what is written so far; empty while there is none
};

}  // namespace mimo
