#include "lib/base/os_error.h"

#include <cerrno>
#include <system_error>
#include <utility>

namespace mimo {
namespace {

std::string Advice(const std::string& path, int error_number) {
  switch (error_number) {
    case ENOSPC:
      return "free space at " + path + " or choose another output";
    case EDQUOT:
      return "raise the disk quota at " + path + " or choose another output";
    case EACCES:
    case EPERM:
      return "check the permissions";
    case EROFS:
      return "choose an output on a writable file system";
    case EMFILE:
    case ENFILE:
      return "raise the limit on open files (ulimit -n)";
    case ELOOP:
      return "remove the link; what it points to was not touched";
    case EXDEV:
      return "choose an output on the same file system, or do without links";
    default:
      return "";
  }
}

}  // namespace

Error OsError(std::string what, const std::string& path, int error_number) {
  const std::string why = error_number == ELOOP ? "a symbolic link is in the way"
                                                : std::error_code(error_number, std::generic_category()).message();
  return IoError(std::move(what) + ": " + why).File(path).Advice(Advice(path, error_number));
}

}  // namespace mimo
