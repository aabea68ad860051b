// What stands at OUT, and whether a run may use it.
#pragma once

#include <string>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/run/options.h"
#include "lib/run/partial.h"

namespace mimo {

enum class OutputState : uint8_t {
  kFresh,       // nothing of this plan: start with PartialDirectory::Start
  kPartial,     // .mimo-partial of this plan: continue
  kPublishing,  // complete, but not yet (fully) moved into place
  kComplete,    // OUT is the complete output of this plan
};

struct OutputInfo {
  OutputState state = OutputState::kFresh;
  bool created_output = false;  // OUT did not exist before the first run
  bool overwrite = false;       // what OUT held is replaced at publication
};

// CheckOutput (executor.h) has passed. Changes nothing. kUsage when --resume finds another plan or something foreign.
Result<OutputInfo> ExamineOutput(FileSystem& fs, const Plan& plan, const RunOptions& options);

}  // namespace mimo
