// What lies around the arrays of files of torch.save items: known once the CRC-32 of each array is.
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
class TorchFrames {
 public:
  // `plan` outlives it.
  explicit TorchFrames(const Plan& plan) : plan_(plan) {}

  // Takes note of bytes that are written, in any order; of each byte once. Files of other containers are left alone.
  void Add(const WriteJob& write);
  // Writes the frames of a file whose arrays are complete.
  Status Write(const PlanFile& file, WritableFile& out);

 private:
  const Plan& plan_;
  std::mutex mutex_;
  std::vector<uint32_t> crcs_;  // per output, of what is written so far; empty while there is none
};

}  // namespace mimo
