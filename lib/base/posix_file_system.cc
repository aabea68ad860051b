#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "lib/base/checked.h"
#include "lib/base/file_system.h"
#include "lib/base/os_error.h"
#include "lib/base/posix_file.h"

namespace mimo {
namespace {

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};
using Directory = std::unique_ptr<DIR, CloseDirectory>;

// The names in an open directory, without "." and "..". Takes the descriptor.
Result<std::vector<std::string>> ReadNames(int fd, const std::string& path) {
  const Directory directory(::fdopendir(fd));
  if (directory == nullptr) {
    const int error_number = errno;
    ::close(fd);
    return OsError("cannot list", path, error_number);
  }
  std::vector<std::string> names;
  while (true) {
    errno = 0;
    const dirent* entry = ::readdir(directory.get());
    if (entry == nullptr) {
      if (errno != 0) return OsError("cannot list", path, errno);
      break;
    }
    if (std::strcmp(entry->d_name, ".") != 0 && std::strcmp(entry->d_name, "..") != 0)
      names.emplace_back(entry->d_name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Removes `name` under the open directory `parent`, contents first. Works on descriptors with O_NOFOLLOW, so that a
// symbolic link is removed, never entered, even when it replaces a directory meanwhile. `path` is for messages.
Status RemoveTree(int parent, const std::string& name, const std::string& path) {
  if (::unlinkat(parent, name.c_str(), 0) == 0 || errno == ENOENT) return {};
  if (errno != EISDIR && errno != EPERM) return OsError("cannot remove", path, errno);
  const int unlink_error = errno;
  const Descriptor fd(::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (fd.get() < 0) return OsError("cannot remove", path, errno == ENOTDIR ? unlink_error : errno);
  const int listing = ::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0);
  if (listing < 0) return OsError("cannot remove", path, errno);
  MIMO_ASSIGN_OR_RETURN(const auto names, ReadNames(listing, path));
  for (const std::string& child : names) MIMO_RETURN_IF_ERROR(RemoveTree(fd.get(), child, JoinPath(path, child)));
  if (::unlinkat(parent, name.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT) {
    return OsError("cannot remove", path, errno);
  }
  return {};
}

class Posix final : public FileSystem {
 public:
  Result<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) override { return OpenPosixForRead(path); }

  Result<std::unique_ptr<WritableFile>> OpenForWrite(const std::string& path, OpenMode mode) override {
    return OpenPosixForWrite(path, mode);
  }

  Result<std::optional<FileInfo>> Stat(const std::string& path) override {
    MIMO_RETURN_IF_ERROR(CheckPath(path));
    struct stat link = {};
    struct stat target = {};
    if (::lstat(path.c_str(), &link) != 0 || ::stat(path.c_str(), &target) != 0) {
      if (errno == ENOENT || errno == ENOTDIR) return std::optional<FileInfo>();
      return OsError("cannot look at", path, errno);
    }
    FileInfo info;
    if (S_ISREG(target.st_mode)) info.kind = FileKind::kRegular;
    if (S_ISDIR(target.st_mode)) info.kind = FileKind::kDirectory;
    info.symlink = S_ISLNK(link.st_mode);
    info.size = static_cast<uint64_t>(target.st_size);
    info.mtime_ns = int64_t{target.st_mtim.tv_sec} * 1'000'000'000 + target.st_mtim.tv_nsec;
    info.device = target.st_dev;
    info.inode = target.st_ino;
    return std::optional<FileInfo>(info);
  }

  Result<std::vector<std::string>> List(const std::string& directory) override {
    MIMO_RETURN_IF_ERROR(CheckPath(directory));
    const int fd = OpenDescriptor(directory, O_RDONLY | O_DIRECTORY);
    if (fd < 0) return OsError("cannot list", directory, errno);
    return ReadNames(fd, directory);
  }

  Status CreateDirectories(const std::string& path) override {
    MIMO_RETURN_IF_ERROR(CheckPath(path));
    if (path.empty()) return OsError("cannot create the directory", path, ENOENT);
    for (size_t end = 0; end != std::string::npos;) {
      end = path.find('/', end + 1);
      const std::string prefix = path.substr(0, end);
      if (::mkdir(prefix.c_str(), 0777) == 0) continue;
      const int error_number = errno;
      // What already stands is fine whatever mkdir said: it may report EROFS or EACCES before EEXIST.
      struct stat info = {};
      if (::stat(prefix.c_str(), &info) != 0) return OsError("cannot create the directory", prefix, error_number);
      if (!S_ISDIR(info.st_mode)) return OsError("cannot create the directory", prefix, ENOTDIR);
    }
    return {};
  }

  Status Rename(const std::string& from, const std::string& to) override {
    MIMO_RETURN_IF_ERROR(CheckPath(from));
    MIMO_RETURN_IF_ERROR(CheckPath(to));
    if (::rename(from.c_str(), to.c_str()) != 0) return OsError("cannot rename to " + to, from, errno);
    return {};
  }

  Status Remove(const std::string& path) override {
    MIMO_RETURN_IF_ERROR(CheckPath(path));
    if (::unlink(path.c_str()) == 0 || errno == ENOENT) return {};
    const int unlink_error = errno;
    if (unlink_error == EISDIR || unlink_error == EPERM) {
      if (::rmdir(path.c_str()) == 0 || errno == ENOENT) return {};
      if (errno != ENOTDIR) return OsError("cannot remove", path, errno);
    }
    return OsError("cannot remove", path, unlink_error);
  }

  Status RemoveAll(const std::string& path) override {
    MIMO_RETURN_IF_ERROR(CheckPath(path));
    std::string name = path;
    while (name.size() > 1 && name.ends_with('/')) name.pop_back();  // "link/" would follow the link
    return RemoveTree(AT_FDCWD, name, name);
  }

  Status HardLink(const std::string& target, const std::string& link) override {
    MIMO_RETURN_IF_ERROR(CheckPath(target));
    MIMO_RETURN_IF_ERROR(CheckPath(link));
    // Follows: files of a download cache are symbolic links to blobs, and the link is wanted to the blob.
    if (::linkat(AT_FDCWD, target.c_str(), AT_FDCWD, link.c_str(), AT_SYMLINK_FOLLOW) != 0) {
      return OsError("cannot make a hard link to " + target, link, errno);
    }
    return {};
  }

  Status SymLink(const std::string& target, const std::string& link) override {
    MIMO_RETURN_IF_ERROR(CheckPath(target));
    MIMO_RETURN_IF_ERROR(CheckPath(link));
    if (::symlink(target.c_str(), link.c_str()) != 0) {
      return OsError("cannot make a symbolic link to " + target, link, errno);
    }
    return {};
  }

  Status RefLink(const std::string& target, const std::string& link) override {
    MIMO_RETURN_IF_ERROR(CheckPath(target));
    MIMO_RETURN_IF_ERROR(CheckPath(link));
    const std::string what = "cannot clone " + target;
    const Descriptor source(OpenDescriptor(target, O_RDONLY | O_NONBLOCK | O_NOCTTY));
    if (source.get() < 0) return OsError(what, link, errno);
    const Descriptor clone(OpenDescriptor(link, O_WRONLY | O_CREAT | O_EXCL, 0666));
    if (clone.get() < 0) return OsError(what, link, errno);
    if (::ioctl(clone.get(), FICLONE, source.get()) != 0) {
      const int error_number = errno;
      ::unlink(link.c_str());
      return OsError(what, link, error_number);
    }
    return {};
  }

  Status SyncDirectory(const std::string& path) override {
    MIMO_RETURN_IF_ERROR(CheckPath(path));
    const Descriptor fd(OpenDescriptor(path, O_RDONLY | O_DIRECTORY));
    if (fd.get() < 0) return OsError("cannot sync the directory", path, errno);
    // Some network file systems write entries through and refuse to sync directories with EINVAL.
    if (Uninterrupted([&] { return ::fsync(fd.get()); }) != 0 && errno != EINVAL)
      return OsError("cannot sync the directory", path, errno);
    return {};
  }

  Result<std::string> RealPath(const std::string& path) override {
    MIMO_RETURN_IF_ERROR(CheckPath(path));
    char* resolved = ::realpath(path.c_str(), nullptr);
    if (resolved == nullptr) return OsError("cannot resolve", path, errno);
    std::string result(resolved);
    std::free(resolved);
    return result;
  }

  Result<uint64_t> FreeBytes(const std::string& path) override {
    MIMO_RETURN_IF_ERROR(CheckPath(path));
    struct statvfs info = {};
    if (Uninterrupted([&] { return ::statvfs(path.c_str(), &info); }) != 0)
      return OsError("cannot ask for free space", path, errno);
    return CheckedMul(info.f_bavail, info.f_frsize).value_or(UINT64_MAX);
  }
};

}  // namespace

FileSystem& PosixFileSystem() {
  static Posix* const instance = new Posix;  // never destroyed: threads may outlive main
  return *instance;
}

}  // namespace mimo
