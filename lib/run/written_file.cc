#include "lib/run/written_file.h"

#include <utility>

namespace mimo {

bool WrittenFile::Is(const WrittenFile& other) const {
  // Of two systems that see one file, one may tell its birth and the other not.
  const bool born = birth_ns == other.birth_ns || birth_ns == 0 || other.birth_ns == 0;
  return inode == other.inode && bytes == other.bytes && born && target == other.target;
}

bool WrittenFile::IsAsWritten(const WrittenFile& now, bool moved) const {
  return Is(now) && mtime_ns == now.mtime_ns && (moved || ctime_ns == 0 || ctime_ns == now.ctime_ns);
}

WrittenFile WrittenFileOf(const FileInfo& info) {
  return {info.inode, info.size, info.mtime_ns, info.ctime_ns, info.birth_ns, ""};
}

Result<std::optional<WrittenFile>> Look(FileSystem& fs, const std::string& name, bool directories) {
  MIMO_ASSIGN_OR_RETURN(const auto info, fs.Stat(name));
  if (!info) return std::optional<WrittenFile>();
  WrittenFile file = WrittenFileOf(*info);
  if (info->symlink && info->kind == FileKind::kOther) {
    MIMO_ASSIGN_OR_RETURN(auto text, fs.ReadLink(name));
    file.target = std::move(text).value_or("");
  } else if (info->kind == FileKind::kDirectory) {
    if (!directories) return std::optional<WrittenFile>();
    file = {info->inode, 0, 0, 0, info->birth_ns, ""};
  } else if (info->kind != FileKind::kRegular && !directories) {
    return std::optional<WrittenFile>();
  }
  return std::optional(std::move(file));
}

}  // namespace mimo
