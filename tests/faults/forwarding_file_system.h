// A file system that does nothing but ask another one: for tests that look at some calls, or hold them back.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/file_system.h"

namespace mimo {

class ForwardingFileSystem : public FileSystem {
 public:
  explicit ForwardingFileSystem(FileSystem& base) : base_(base) {}

  Result<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) override {
    return base_.OpenForRead(path);
  }
  Result<std::unique_ptr<WritableFile>> OpenForWrite(const std::string& path, OpenMode mode) override {
    return base_.OpenForWrite(path, mode);
  }
  Result<std::optional<FileInfo>> Stat(const std::string& path) override { return base_.Stat(path); }
  Result<std::vector<std::string>> List(const std::string& directory) override { return base_.List(directory); }
  Status CreateDirectories(const std::string& path) override { return base_.CreateDirectories(path); }
  Status Rename(const std::string& from, const std::string& to) override { return base_.Rename(from, to); }
  Status Remove(const std::string& path) override { return base_.Remove(path); }
  Status RemoveAll(const std::string& path) override { return base_.RemoveAll(path); }
  Status HardLink(const std::string& target, const std::string& link) override { return base_.HardLink(target, link); }
  Status SymLink(const std::string& target, const std::string& link) override { return base_.SymLink(target, link); }
  Status RefLink(const std::string& target, const std::string& link) override { return base_.RefLink(target, link); }
  Status SyncDirectory(const std::string& path) override { return base_.SyncDirectory(path); }
  Result<std::string> RealPath(const std::string& path) override { return base_.RealPath(path); }
  Result<uint64_t> FreeBytes(const std::string& path) override { return base_.FreeBytes(path); }

 private:
  FileSystem& base_;
};

}  // namespace mimo
