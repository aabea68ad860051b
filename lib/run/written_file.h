// What a file of an output is known by.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "lib/base/file_system.h"
#include "lib/base/status.h"

namespace mimo {

// What a file is known by that this run, or the run that it goes on with, has written: whatever else stands under its
// name is not published.
struct WrittenFile {
  uint64_t inode = 0;
  uint64_t bytes = 0;
  int64_t mtime_ns = 0;
  int64_t ctime_ns = 0;     // renaming changes it: of a file that has not been moved yet. 0: not known
  int64_t birth_ns = 0;     // 0: not known
  std::string target = {};  // of a symbolic link, whose text `bytes` is the length of

  // Whether it is the same file or link, of the same length.
  bool Is(const WrittenFile& other) const;
  // And whether nobody has written to it since. `moved`: it has got another name meanwhile.
  bool IsAsWritten(const WrittenFile& now, bool moved) const;
};
WrittenFile WrittenFileOf(const FileInfo& info);
// The file or link `name` of OUT as it is now; nullopt when there is neither. With `directories` also a directory, of
// which only what it is counts, not what is in it.
Result<std::optional<WrittenFile>> Look(FileSystem& fs, const std::string& name, bool directories = false);

}  // namespace mimo
