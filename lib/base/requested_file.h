// Files that a user asks for by name, beside an output: a plan, a report. They are written so that nothing but a file
// of that name is ever touched: never through a link, never a device, never inside what is read or made.
#pragma once

#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/base/text_sink.h"

namespace mimo {

// What a requested file may not be.
struct Untouchable {
  std::string what;       // "the checkpoint"
  std::string path;       // a directory, with all that is below it, or one file; it need not exist
  bool resolved = false;  // `path` is a real path already
};

class RequestedFile {
 public:
  // Checks that `path`, the value of `option` ("--report"), can be written, and leaves nothing behind. Call it before
  // the work whose result goes there. kUsage: not a file name, a symbolic link, anything but a regular file, or in the
  // way of something untouchable. kIo: its directory is missing or cannot be written to. `fs` outlives it.
  static Result<RequestedFile> Check(FileSystem& fs, std::string option, std::string path,
                                     const std::vector<Untouchable>& untouchable);

  // Puts the file there, whole, or leaves what was there: it is written under a name that nobody can foresee, synced
  // and renamed. A file that is replaced hands its permissions on. kUsage when the path has changed meanwhile and may
  // not be written any more, kIo for all else; an error of `content` is returned.
  Status Write(const TextSource& content) const;

  // The real path.
  const std::string& path() const { return path_; }

 private:
  RequestedFile(FileSystem& fs, std::string option, std::string path)
      : fs_(&fs), option_(std::move(option)), path_(std::move(path)) {}
  Status CheckKind() const;
  Status WriteTemporary(const std::string& temporary, const TextSource& content) const;

  FileSystem* fs_;
  std::string option_;
  std::string path_;
};

}  // namespace mimo
