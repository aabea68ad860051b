// What lies in a checkpoint's directory, and where the symbolic links in it may lead. A checkpoint is often a snapshot
// of the Hugging Face cache, whose files are links: snapshots/REVISION/NAME -> ../../blobs/HASH.
#pragma once

#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"

namespace mimo {

// Files that travel along unread: tokenizer, code, subdirectories (dflash/, audio_tokenizer/).
struct CarriedFile {
  std::string name;  // relative to the root, with '/'
  uint64_t bytes = 0;
  // Where a link leads that leaves the checkpoint (CheckpointBounds): the real path. What is there is neither read nor
  // listed, and no conversion carries it. "" for all else.
  std::string outside = {};
  FileStamp stamp = {};
};

// The directories that files of a checkpoint may lie in: its own and, for R/snapshots/REVISION, R/blobs.
class CheckpointBounds {
 public:
  // Of the directory `root`, which exists. kIo.
  static Result<CheckpointBounds> Of(FileSystem& fs, const std::string& root);

  bool Hold(const std::string& real_path) const;
  // Real paths; the checkpoint's own comes first.
  const std::vector<std::string>& directories() const { return directories_; }

 private:
  std::vector<std::string> directories_;
};

// Every file of the directory `root` and below, tensor files among them, directory by directory. Bookkeeping of the
// tools that fetched it (.git, .cache) is passed over; so is what mimo-convert keeps in an output, which `oddities`
// says. kBadInput: dangling links, links that lead in a circle, FIFOs, sockets and devices (which are never opened),
// too many levels, too many directories behind links.
Status ListCarried(FileSystem& fs, const std::string& root, std::vector<CarriedFile>* carried,
                   std::vector<std::string>* oddities);

// The real path of a carried file, now. kBadInput for a link that leaves the checkpoint.
Result<std::string> RealPathOfCarried(FileSystem& fs, const CheckpointBounds& bounds, const std::string& root,
                                      const std::string& name);

// What is said of one that may not be carried.
Error LeavesCheckpoint(const std::string& path, const std::string& real_path);

}  // namespace mimo
