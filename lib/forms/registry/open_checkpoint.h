// Opens a checkpoint of whatever form.
#pragma once

#include "lib/forms/checkpoint.h"

namespace mimo {

// As far as it can be understood. The form is the one that recognises the directory.
OpenedCheckpoint OpenAsFarAsPossible(FileSystem& fs, const std::string& root, const OpenOptions& options = {});

// The whole checkpoint, or the error of the step that failed; kUsage for a --source-qkv that contradicts a view, which
// knows its layout.
Result<Checkpoint> OpenCheckpoint(FileSystem& fs, const std::string& root, const OpenOptions& options = {});

}  // namespace mimo
