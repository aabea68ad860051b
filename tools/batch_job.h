// The batch job that a process belongs to, as options and schedulers tell.
#pragma once

#include "lib/base/status.h"
#include "lib/owner/lease.h"

namespace mimo {

// Completes what the options say (`count_given`: the number of restarts too) from the variables of Slurm and torchrun.
// What cannot be a job's name or count there is no job: it would outrank others by mistake. kUsage for such an option.
Status FindJob(bool count_given, BatchJob* job);

}  // namespace mimo
