// What a unit of work has in memory. The Place* functions of strip_work.h, cell_work.h, turn_work.h and encode_work.h
// tell it, in one order, to whoever places it (StepLayout) or counts it (step_memory.h).
#pragma once

#include <cstdint>

#include "lib/run/job.h"

namespace mimo {

class Needs {
 public:
  // `job` outlives it.
  explicit Needs(const Job& job) : job_(job) {}
  virtual ~Needs() = default;

  virtual void Read(uint32_t source, int64_t row, int64_t rows) = 0;
  // The scales and the global that these rows need to be decoded.
  virtual void ReadScales(uint32_t source, int64_t row, int64_t rows) = 0;
  virtual void Make(uint32_t output, int64_t row, int64_t rows) = 0;
  // The next room: bytes for rows that are put together and not written. None when `bytes` is 0.
  virtual void AddRoom(uint64_t bytes) = 0;

  const Job& job() const { return job_; }

 protected:
  const Job& job_;
};

}  // namespace mimo
