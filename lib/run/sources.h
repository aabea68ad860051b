// Whether the files that a plan reads are those that it was made from: a run that goes on over changed sources would
// mix two checkpoints in one output.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/model/catalogue.h"
#include "lib/plan/plan.h"

namespace mimo {

struct SourceState {
  std::string name;
  uint64_t bytes = 0;
  FileStamp stamp;
  bool operator==(const SourceState&) const = default;
};

// The tensor files of the checkpoint, in its order, as they were when it was opened.
std::vector<SourceState> SourceStates(const Catalogue& catalogue);

// kBadInput when `now` is not what a partial output was begun with.
Status CheckSameSources(const Catalogue& catalogue, const std::vector<SourceState>& begun);

// Opens one of them for reading. kBadInput when it is not the file that was there when the checkpoint was opened.
Result<std::unique_ptr<ReadableFile>> OpenUnchanged(FileSystem& fs, const Catalogue& catalogue, uint32_t file);

// kBadInput when a file has another length, time of change or inode than when the checkpoint was opened. Files whose
// stamp nobody took are compared in length alone.
Status CheckUnchanged(FileSystem& fs, const Catalogue& catalogue, uint32_t file);
// The same of all tensor files, and of the files that `plan` carries along.
Status CheckAllUnchanged(FileSystem& fs, const Catalogue& catalogue, const Plan& plan);

// The tensor files that each file group reads or links to, in ascending order.
std::vector<std::vector<uint32_t>> FilesReadBy(const Catalogue& catalogue, const Plan& plan);

}  // namespace mimo
