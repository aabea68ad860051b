// What a run would meet and make, without one: for --dry-run.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "lib/base/file_system.h"
#include "lib/base/progress.h"
#include "lib/base/status.h"
#include "lib/plan/plan.h"
#include "lib/run/options.h"

namespace mimo {

struct Forecast {
  enum class State : uint8_t {
    kNew,       // OUT does not exist, or is empty
    kPartial,   // begun by a run or parts of this plan
    kComplete,  // published, or needs only that
    kOther,     // holds something else, which --overwrite would replace
  };
  State state = State::kNew;
  std::optional<Error> refusal;  // why the run would not begin, but for space, which comes and goes
  std::string file_system;       // FileSystem::KindOf
  bool may_write = true;
  uint64_t free_bytes = 0;
  uint64_t needed_bytes = 0;  // beside what is there
  uint64_t files_linked = 0, linked_bytes = 0;
  ProgressTotals totals;    // of this share: bytes of output, units, files
  uint64_t read_bytes = 0;  // about what is left to read and to write, of this share
  uint64_t written_bytes = 0;
  uint64_t largest_unit_bytes = 0;  // of output
  bool fits() const { return state == State::kComplete || needed_bytes <= free_bytes; }
};

// Looks at options.output, and changes nothing. kIo. What the run itself would say is Forecast::refusal.
Result<Forecast> ForecastRun(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, const RunOptions& options);

}  // namespace mimo
