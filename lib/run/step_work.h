// One step in memory: which bytes it reads, what becomes of them, which bytes it writes. No I/O.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "lib/base/status.h"
#include "lib/run/backend.h"
#include "lib/run/encode_work.h"
#include "lib/run/step_layout.h"
#include "lib/run/step_result.h"
#include "lib/run/steps.h"

namespace mimo {

class StepWork {
 public:
  // Both outlive it. `limit` bounds what coalescing of reads and whole blocks may add.
  StepWork(const Job& job, const Step& step, uint64_t limit, DirectSides direct = {});

  const std::vector<Extent>& reads() const { return layout_.reads(); }
  uint64_t buffer_bytes() const { return layout_.buffer_bytes(); }
  // `buffer` holds the extents of reads() at their offsets. Makes strips, cells, transposed units and encoded weights,
  // in this order; kDevice when the backend fails, nothing else.
  Result<StepResult> Transform(std::byte* buffer, Backend& backend, const EncodeRequest& request = {}) const;

 private:
  const Step& step_;
  StepLayout layout_;
};

}  // namespace mimo
