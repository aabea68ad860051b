// What scalars and vectors of a checkpoint hold: a few MB of a terabyte, so all of them are read.
#pragma once

#include "lib/base/file_system.h"
#include "lib/forms/checkpoint.h"
#include "lib/judge/finding.h"
#include "lib/model/inventory.h"

namespace mimo {

struct HealthOptions {
  int threads = 0;                               // that read; 0: one per CPU that this process may use
  bool allow_anomalies = false;                  // what would be errors are warnings
  const std::vector<uint8_t>* unread = nullptr;  // by array of the catalogue: 1: no engine reads it, nor is it judged
};

// Reads every stored array of rank 0 and 1 in a floating-point type but those of towers and any above 4 MiB, in the
// order of files and offsets, and judges it: finite, positive where it is a scale, stored type against the model table,
// router biases and norms that say nothing, input scales that are missing or disagree (health.*). `inventory` may be
// null, and then nothing is said about gaps. `catalogue` is one whose arrays lie in files: not what a view shows. kIo
// when a file cannot be read.
Result<Verdict> JudgeHealth(FileSystem& fs, const Catalogue& catalogue, const Inventory* inventory,
                            const HealthOptions& options = {});

// The same of an opened checkpoint, but for constants of an engine that its view names. `taken`: whether it came as far
// as an inventory; gaps are looked for where that is of what is stored.
Result<Verdict> JudgeHealth(FileSystem& fs, const Checkpoint& checkpoint, bool taken, HealthOptions options = {});

}  // namespace mimo
