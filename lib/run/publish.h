// From a partial output whose tensors are complete to a published one. Every step may be repeated.
#pragma once

#include <atomic>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/results/manifest.h"
#include "lib/run/options.h"
#include "lib/run/partial.h"
#include "lib/run/report.h"

namespace mimo {

// The link `mode` makes at `link` to the real path of `target`; kIo with advice when the file system cannot.
Status MakeLink(FileSystem& fs, LinkMode mode, const std::string& target, const std::string& link);

// Puts texts and the manifest into the partial directory, beside the tensor and carried files of `results`, syncs them
// and writes publish.json. Adds what was written to `report`.
Status PreparePublication(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, bool overwrite,
                          PartialDirectory& partial, const RunResults& results, RunReport& report);

// Moves everything into OUT, the manifest last, and removes the partial directory. Needs publish.json alone, so that it
// can be continued by another run. Errors are kIo, and leave it resumable.
Status FinishPublication(FileSystem& fs, const std::string& output, PartialDirectory& partial);

}  // namespace mimo
