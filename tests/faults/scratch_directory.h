// A directory that lives as long as a test.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <string>

namespace mimo {

class ScratchDirectory {
 public:
  ScratchDirectory() : ScratchDirectory(std::filesystem::temp_directory_path().string()) {}
  explicit ScratchDirectory(const std::string& parent) {
    path_ = (std::filesystem::path(parent) / "mimo-test-XXXXXX").string();
    if (::mkdtemp(path_.data()) == nullptr) path_.clear();
  }
  ~ScratchDirectory() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + '/' + name; }

 private:
  std::string path_;
};

}  // namespace mimo
