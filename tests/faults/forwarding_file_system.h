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
  Result<std::optional<std::string>> ReadLink(const std::string& path) override { return base_.ReadLink(path); }
  Result<uint64_t> FreeBytes(const std::string& path) override { return base_.FreeBytes(path); }
  Status RemoveDirectory(const std::string& path) override { return base_.RemoveDirectory(path); }
  Result<std::unique_ptr<LockFile>> OpenLock(const std::string& path, OpenMode mode) override {
    return base_.OpenLock(path, mode);
  }
  // Asks this object, by whole paths: what a test looks at or holds back, it does beneath too.
  Result<std::unique_ptr<FileSystem>> Beneath(const std::string& root) override;

 private:
  FileSystem& base_;
};

// Names below a directory, as whole paths of another file system.
class PrefixedFileSystem final : public FileSystem {
 public:
  PrefixedFileSystem(FileSystem& whole, std::string root) : whole_(whole), root_(std::move(root)) {}

  Result<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) override {
    return whole_.OpenForRead(Full(path));
  }
  Result<std::unique_ptr<WritableFile>> OpenForWrite(const std::string& path, OpenMode mode) override {
    return whole_.OpenForWrite(Full(path), mode);
  }
  Result<std::optional<FileInfo>> Stat(const std::string& path) override { return whole_.Stat(Full(path)); }
  Result<std::vector<std::string>> List(const std::string& path) override { return whole_.List(Full(path)); }
  Status CreateDirectories(const std::string& path) override { return whole_.CreateDirectories(Full(path)); }
  Status Rename(const std::string& from, const std::string& to) override { return whole_.Rename(Full(from), Full(to)); }
  Status Remove(const std::string& path) override { return whole_.Remove(Full(path)); }
  Status RemoveAll(const std::string& path) override { return whole_.RemoveAll(Full(path)); }
  Status HardLink(const std::string& target, const std::string& link) override {
    return whole_.HardLink(target, Full(link));
  }
  Status SymLink(const std::string& target, const std::string& link) override {
    return whole_.SymLink(target, Full(link));
  }
  Status RefLink(const std::string& target, const std::string& link) override {
    return whole_.RefLink(target, Full(link));
  }
  Status SyncDirectory(const std::string& path) override { return whole_.SyncDirectory(Full(path)); }
  Result<std::string> RealPath(const std::string& path) override { return whole_.RealPath(Full(path)); }
  Result<uint64_t> FreeBytes(const std::string& path) override { return whole_.FreeBytes(Full(path)); }
  Result<std::optional<std::string>> ReadLink(const std::string& path) override { return whole_.ReadLink(Full(path)); }
  Status RemoveDirectory(const std::string& path) override { return whole_.RemoveDirectory(Full(path)); }
  Result<std::unique_ptr<LockFile>> OpenLock(const std::string& path, OpenMode mode) override {
    return whole_.OpenLock(Full(path), mode);
  }
  Result<std::unique_ptr<FileSystem>> Beneath(const std::string& root) override { return whole_.Beneath(Full(root)); }

 private:
  std::string Full(const std::string& path) const { return JoinPath(root_, path); }

  FileSystem& whole_;
  const std::string root_;
};

inline Result<std::unique_ptr<FileSystem>> ForwardingFileSystem::Beneath(const std::string& root) {
  return std::unique_ptr<FileSystem>(std::make_unique<PrefixedFileSystem>(*this, root));
}

}  // namespace mimo
