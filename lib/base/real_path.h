// Where paths really lie, and how they lie to one another: for checks that nothing is read or written where it should
// not be.
#pragma once

#include <string>

#include "lib/base/file_system.h"
#include "lib/base/status.h"

namespace mimo {

// The real path that `path` has or would have: its deepest existing ancestor resolved, the rest appended. Without a
// slash at its end.
Result<std::string> FutureRealPath(FileSystem& fs, const std::string& path);

// Whether a real path is that of `directory` or of something below it.
bool IsInside(const std::string& path, const std::string& directory);

// How a symbolic link at `link` (a real path, or a future one) reaches `target` (a real path): relative where both lie
// below one directory of the root, so that the two can be moved or mounted elsewhere together; else `target` itself.
std::string LinkText(const std::string& target, const std::string& link);

}  // namespace mimo
