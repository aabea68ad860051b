// The verdict on any directory: ours or anybody's, with a manifest or without.
#pragma once

#include <string>

#include "lib/base/file_system.h"
#include "lib/judge/finding.h"

namespace mimo {

struct DirectoryVerdict {
  bool manifest = false;  // mimo-convert wrote it: its bytes can be checked too
  Verdict findings;       // as of an output: readers go by what is declared
};

// Opens the directory as a checkpoint of any form and judges structure, declarations and layout; without a manifest the
// scalars and vectors too. What stops the opening
// is a finding; of a directory with a manifest only a note, since a part (--include, --ranks) is complete in itself.
// kBadInput: no checkpoint at all, or an output that is not complete; kIo: the system refused.
Result<DirectoryVerdict> JudgeDirectory(FileSystem& fs, const std::string& directory);

}  // namespace mimo
