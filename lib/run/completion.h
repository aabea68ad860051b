// Completes files whose arrays are written: what their containers put around the data may depend on its CRC-32.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
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

  // What bytes that are written add to the CRC-32 of their output (crc32.h); nullopt where nobody asks for it.
  struct Part {
    uint32_t output = 0;
    uint32_t crc = 0;
  };
  std::optional<Part> PartOf(const WriteJob& write) const;
  // Takes note of bytes, in any order; of each byte once.
  void Add(const Part& part);
  // Writes what is missing of a file whose header and arrays are complete.
  Status Complete(const PlanFile& file, WritableFile& out);

 private:
  const Plan& plan_;
  std::mutex mutex_;
  std::vector<uint32_t> crcs_;  // per output, of what is written so far; empty while there is none
};

}  // namespace mimo
