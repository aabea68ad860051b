#include "lib/base/real_path.h"

#include <filesystem>
#include <vector>

namespace mimo {

Result<std::string> FutureRealPath(FileSystem& fs, const std::string& path) {
  std::filesystem::path existing =
      std::filesystem::path(path).is_absolute() ? std::filesystem::path(path) : std::filesystem::path(".") / path;
  std::vector<std::filesystem::path> rest;
  while (true) {
    MIMO_ASSIGN_OR_RETURN(const auto info, fs.Stat(existing.string()));
    if (info || existing == existing.root_path() || existing == ".") break;
    if (!existing.filename().empty()) rest.push_back(existing.filename());
    existing = existing.parent_path();
  }
  MIMO_ASSIGN_OR_RETURN(const std::string real, fs.RealPath(existing.string()));
  std::filesystem::path result = real;
  for (auto it = rest.rbegin(); it != rest.rend(); ++it) result /= *it;
  std::string text = result.lexically_normal().string();
  while (text.size() > 1 && text.back() == '/') text.pop_back();
  return text;
}

bool IsInside(const std::string& path, const std::string& directory) {
  return path == directory || path.starts_with(directory.ends_with('/') ? directory : directory + '/');
}

std::string LinkText(const std::string& target, const std::string& link) {
  const std::string top = link.substr(0, link.find('/', 1));
  if (!IsInside(target, top)) return target;
  return std::filesystem::path(target).lexically_relative(std::filesystem::path(link).parent_path()).string();
}

}  // namespace mimo
