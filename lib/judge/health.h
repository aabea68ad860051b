// What scalars and vectors of a checkpoint hold: a few MB of a terabyte, so all of them are read.
#pragma once

#include "lib/base/file_system.h"
#include "lib/judge/finding.h"
#include "lib/model/inventory.h"

namespace mimo {

struct HealthOptions {
  int threads = 0;               // that read; 0: one per CPU that this process may use
  bool allow_anomalies = false;  // what would be errors are warnings
};

// Reads every stored array of rank 0 and 1 in a floating-point type but those of towers and any above 4 MiB, in the
// order of files and offsets, and judges it: finite, positive where it is a scale, stored type against the model table,
// router biases and norms that say nothing, input scales that are missing or disagree (health.*). `inventory` may be
// null, and then nothing is said about gaps. `catalogue` is one whose arrays lie in files: not what a view shows. kIo
// when a file cannot be read.
Result<Verdict> JudgeHealth(FileSystem& fs, const Catalogue& catalogue, const Inventory* inventory,
                            const HealthOptions& options = {});

}  // namespace mimo
