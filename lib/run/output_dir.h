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

// Whether what OUT holds lets a run with these options begin; `files` is OUT. kUsage.
Status CheckContents(FileSystem& files, const RunOptions& options);

// CheckContents has passed. Changes nothing. kUsage when --resume finds another plan or something foreign; kBadInput
// when the checkpoint is not what it was when the partial output was begun, or when the partial directory names files
// that are not the plan's.
// A part and a join go on with what they find as --resume does; a part begins anew under --overwrite where OUT holds
// something else than this plan's output. kUsage for a join where there is nothing to join.
Result<OutputInfo> ExamineOutput(const PartialDirectory& partial, const Catalogue& catalogue, const Plan& plan,
                                 const RunOptions& options);

}  // namespace mimo
