#include "lib/base/file_system.h"

namespace mimo {

Status ReadableFile::UseDirect(DirectMode) {
  return IoError("this file has no direct I/O").Advice("use --io auto or --io buffered");
}

Status WritableFile::UseDirect(DirectMode) {
  return IoError("this file has no direct I/O").Advice("use --io auto or --io buffered");
}

Result<std::string> ReadWholeFile(FileSystem& fs, const std::string& path, uint64_t limit) {
  MIMO_ASSIGN_OR_RETURN(auto file, fs.OpenForRead(path));
  if (file->size() > limit) {
    return BadInput("file is too large")
        .File(path)
        .Expected("at most " + std::to_string(limit) + " bytes")
        .Found(std::to_string(file->size()) + " bytes");
  }
  std::string content(file->size(), '\0');
  MIMO_RETURN_IF_ERROR(file->ReadAt(0, std::as_writable_bytes(std::span(content))));
  return content;
}

std::string JoinPath(const std::string& directory, const std::string& name) {
  if (directory.empty() || name.starts_with('/')) return name;
  if (name.empty() || directory.ends_with('/')) return directory + name;
  return directory + '/' + name;
}

std::string ParentOf(const std::string& path) {
  std::string trimmed = path;
  while (trimmed.size() > 1 && trimmed.back() == '/') trimmed.pop_back();
  const size_t slash = trimmed.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : trimmed.substr(0, slash);
}

}  // namespace mimo
