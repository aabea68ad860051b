// From a partial output whose tensors are complete to a published one. Every step may be repeated.
#pragma once

#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/results/manifest.h"
#include "lib/run/options.h"
#include "lib/run/partial.h"
#include "lib/run/report.h"

namespace mimo {

// The link `mode` makes at `link`, a name in `to`, to `real_target`, the real path of a file in `from`. A symbolic link
// says how `place`, the real path that the link will have in OUT, reaches the target: relative where both lie below one
// directory of the root and on one file system (LinkText), else absolute. Until it is there it may lead nowhere. kIo
// with advice when the file system cannot.
Status MakeLink(FileSystem& from, FileSystem& to, LinkMode mode, const std::string& real_target,
                const std::string& link, const std::string& place);

// The names of an output: tensor and carried files, then texts with the index and the config at their end, then the
// manifest.
std::vector<std::string> PublicationOrder(const Plan& plan);

// Puts texts and the manifest into the partial directory, beside the tensor and carried files of `results`, syncs them
// and writes publish.json, with RunOptions::command in it. Adds what was written to `report`.
Status PreparePublication(const Catalogue& catalogue, const Plan& plan, bool overwrite,
                          const std::vector<std::string>& command, PartialDirectory& partial, const RunResults& results,
                          RunReport& report);

// kBadInput where `publication` names other files than the plan does: publish.json is only a list of what to move.
Status CheckNames(const PartialDirectory& partial, const Plan& plan, const PartialDirectory::Publication& publication);

// That what stands under `name`, in OUT, is not what was written.
Error Replaced(const PartialDirectory& partial, const std::string& name);

// Whether all that `publication` names is there, in files/ or moved already, and is what was written.
Result<bool> IsWhole(const PartialDirectory& partial, const PartialDirectory::Publication& publication);

// Moves everything into OUT, the manifest last, and removes the partial directory. Needs publish.json alone, so that it
// can be continued by another run. Only what was written is moved. Errors are kIo, and leave it resumable.
// `overwrite`: what OUT held before is removed, as the state of the partial directory says.
Status FinishPublication(const Plan& plan, bool overwrite, PartialDirectory& partial);

}  // namespace mimo
