// Runs a plan: fuse groups in bounded memory, read -> transform -> write in one pass, then publication
// (docs/formats.md). Or a part of it, one of several processes that share OUT, and then the publication of what they
// have made.
#pragma once

#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/plan/plan.h"
#include "lib/run/options.h"
#include "lib/run/report.h"

namespace mimo {

// kUsage: OUT not empty without overwrite or resume, OUT inside the checkpoint or the reverse, resume of another plan,
// thresholds that speak of no weight, too little memory for one row. kBadInput: the data is malformed or anomalous.
// kCheckFailed: it does not take the exact paths that the plan asks for. After these two nothing is published, and the
// partial directory is removed. kIo, kDevice, kInterrupted: OUT/.mimo-partial stays for --resume. `catalogue` is the
// one the plan was made from.
// With options.part the units of that part are made and recorded, and nothing is published or removed, whatever
// happens; where the output is complete, and whole (kUsage, unless it may be overwritten), nothing is done. With
// options.join, once no part is at work, all units must be recorded (else kIo, for that may be tried again) and the
// output is published; again where it was begun before.
Result<RunReport> RunPlan(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, const RunOptions& options);

// RunOptions::command of the parts of which OUT holds what they made; empty where there is none. kIo.
Result<std::vector<std::string>> CommandOfParts(FileSystem& fs, const std::string& output);

// A join of what is complete: whether options.output is whole still, by its manifest, and all that is asked for now
// (kUsage), and what it came to. Removes what a publication that was stopped at its very end has left beside it: no
// more than leases of the dead; where there is more, nothing. kIo, also where somebody is at work.
Result<RunReport> CompleteBefore(FileSystem& fs, const RunOptions& options);

// The checks of RunPlan on OUT that need no plan: call them before planning or a dry run, to fail early.
Status CheckOutput(FileSystem& fs, const std::string& checkpoint, const RunOptions& options);

}  // namespace mimo
