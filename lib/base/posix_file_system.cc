#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "lib/base/checked.h"
#include "lib/base/file_system.h"
#include "lib/base/os_error.h"
#include "lib/base/posix_file.h"

namespace mimo {
namespace {

// Numbers of statfs(2).
constexpr std::pair<uint32_t, const char*> kKinds[] = {
    {0xEF53, "ext4"},         {0x58465342, "xfs"},   {0x9123683E, "btrfs"},  {0x01021994, "tmpfs"},
    {0x794C7630, "overlay"},  {0x6969, "nfs"},       {0x0BD00BD0, "lustre"}, {0x47504653, "gpfs"},
    {0x19830326, "beegfs"},   {0x00C36400, "ceph"},  {0xFF534D42, "cifs"},   {0xFE534D42, "smb2"},
    {0x65735546, "fuse"},     {0x2FC12FC1, "zfs"},   {0xF2F52010, "f2fs"},   {0x01021997, "9p"},
    {0x6A656A63, "virtiofs"}, {0x7461636F, "ocfs2"}, {0x01161970, "gfs2"}};

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

// All of the process where it has no root; else what lies below the directory that `root` holds open.
class Posix final : public FileSystem {
 public:
  Posix() = default;
  Posix(Descriptor root, std::string path) : root_(std::move(root)), path_(std::move(path)) {}

  Result<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) override {
    MIMO_ASSIGN_OR_RETURN(const Located located, Locate(path));
    if (located.error != 0) return OsError("cannot open for reading", Shown(path), located.error);
    return OpenPosixForRead(located.place);
  }

  Result<std::unique_ptr<ReadableFile>> OpenResolved(const std::string& real_path) override {
    return OpenPosixResolved(real_path);
  }

  Result<std::unique_ptr<WritableFile>> OpenForWrite(const std::string& path, OpenMode mode) override {
    MIMO_ASSIGN_OR_RETURN(const Located located, Locate(path));
    if (located.error != 0) return OsError("cannot open for writing", Shown(path), located.error);
    return OpenPosixForWrite(located.place, mode);
  }

  Result<std::unique_ptr<LockFile>> OpenLock(const std::string& path, OpenMode mode) override {
    MIMO_ASSIGN_OR_RETURN(const Located located, Locate(path));
    if (located.error != 0) return OsError("cannot open for locking", Shown(path), located.error);
    return OpenPosixLock(located.place, mode);
  }

  Result<std::optional<FileInfo>> Stat(const std::string& path) override {
    MIMO_ASSIGN_OR_RETURN(const Located located, Locate(path));
    Place here = located.place;
    here.follow = false;
    FileInfo link;
    int error_number = located.error != 0 ? located.error : LookAt(here, &link);
    FileInfo info = link;
    if (error_number == 0 && link.symlink && located.place.follow) error_number = LookAt(located.place, &info);
    if (error_number == ENOENT || error_number == ENOTDIR || (located.place.follow && error_number == ELOOP))
      return std::optional<FileInfo>();
    if (error_number != 0) return OsError("cannot look at", located.place.path, error_number);
    info.symlink = link.symlink;
    return std::optional<FileInfo>(info);
  }

  Result<std::vector<std::string>> List(const std::string& directory) override {
    MIMO_ASSIGN_OR_RETURN(const int fd, OpenDirectory("cannot list", directory));
    return ReadNames(fd, Shown(directory));
  }

  Status CreateDirectories(const std::string& path) override {
    MIMO_RETURN_IF_ERROR(CheckPath(path));
    if (path.empty() && !rooted()) return OsError("cannot create the directory", path, ENOENT);
    for (size_t end = 0; end != std::string::npos && !path.empty();) {
      end = path.find('/', end + 1);
      const std::string prefix = path.substr(0, end);
      MIMO_ASSIGN_OR_RETURN(const Located located, Locate(prefix));
      const auto [at, name, shown, follow] = located.place;
      if (located.error != 0) return OsError("cannot create the directory", shown, located.error);
      if (::mkdirat(at, name.c_str(), 0777) == 0) continue;
      const int error_number = errno;
      // What already stands is fine whatever mkdir said: it may report EROFS or EACCES before EEXIST.
      struct stat info = {};
      if (::fstatat(at, name.c_str(), &info, follow ? 0 : AT_SYMLINK_NOFOLLOW) != 0)
        return OsError("cannot create the directory", shown, error_number);
      if (!S_ISDIR(info.st_mode))
        return OsError("cannot create the directory", shown, S_ISLNK(info.st_mode) ? ELOOP : ENOTDIR);
    }
    return {};
  }

  Status Rename(const std::string& from, const std::string& to) override {
    MIMO_ASSIGN_OR_RETURN(const Located a, Locate(from));
    MIMO_ASSIGN_OR_RETURN(const Located b, Locate(to));
    const std::string what = "cannot rename to " + b.place.path;
    if (a.error != 0 || b.error != 0) return OsError(what, a.place.path, a.error != 0 ? a.error : b.error);
    if (::renameat(a.place.at, a.place.name.c_str(), b.place.at, b.place.name.c_str()) != 0)
      return OsError(what, a.place.path, errno);
    return {};
  }

  Status Remove(const std::string& path) override {
    MIMO_ASSIGN_OR_RETURN(const Located located, Locate(path));
    const auto [at, name, shown, follow] = located.place;
    if (located.error == ENOENT) return {};
    if (located.error != 0) return OsError("cannot remove", shown, located.error);
    if (::unlinkat(at, name.c_str(), 0) == 0 || errno == ENOENT) return {};
    const int unlink_error = errno;
    if (unlink_error == EISDIR || unlink_error == EPERM) {
      if (::unlinkat(at, name.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) return {};
      if (errno != ENOTDIR) return OsError("cannot remove", shown, errno);
    }
    return OsError("cannot remove", shown, unlink_error);
  }

  Status RemoveAll(const std::string& path) override {
    std::string name = path;
    while (name.size() > 1 && name.ends_with('/')) name.pop_back();  // "link/" would follow the link
    MIMO_ASSIGN_OR_RETURN(const Located located, Locate(name));
    if (located.error == ENOENT) return {};
    if (located.error != 0) return OsError("cannot remove", located.place.path, located.error);
    return RemoveTree(located.place.at, located.place.name, located.place.path);
  }

  Status RemoveDirectory(const std::string& path) override {
    MIMO_ASSIGN_OR_RETURN(const Located located, Locate(path));
    int error_number = located.error;
    if (error_number == 0 && ::unlinkat(located.place.at, located.place.name.c_str(), AT_REMOVEDIR) != 0)
      error_number = errno;
    if (error_number != 0) return OsError("cannot remove the directory", located.place.path, error_number);
    return {};
  }

  Status HardLink(const std::string& target, const std::string& link) override {
    MIMO_RETURN_IF_ERROR(CheckPath(target));
    MIMO_ASSIGN_OR_RETURN(const Located located, Locate(link));
    int error_number = located.error;
    // Follows: files of a download cache are symbolic links to blobs, and the link is wanted to the blob.
    if (error_number == 0 &&
        ::linkat(AT_FDCWD, target.c_str(), located.place.at, located.place.name.c_str(), AT_SYMLINK_FOLLOW) != 0)
      error_number = errno;
    if (error_number != 0) return OsError("cannot make a hard link to " + target, located.place.path, error_number);
    return {};
  }

  Status SymLink(const std::string& target, const std::string& link) override {
    MIMO_RETURN_IF_ERROR(CheckPath(target));
    MIMO_ASSIGN_OR_RETURN(const Located located, Locate(link));
    int error_number = located.error;
    if (error_number == 0 && ::symlinkat(target.c_str(), located.place.at, located.place.name.c_str()) != 0)
      error_number = errno;
    if (error_number != 0) return OsError("cannot make a symbolic link to " + target, located.place.path, error_number);
    return {};
  }

  Status RefLink(const std::string& target, const std::string& link) override {
    MIMO_RETURN_IF_ERROR(CheckPath(target));
    MIMO_ASSIGN_OR_RETURN(const Located located, Locate(link));
    const Place& place = located.place;
    const std::string what = "cannot clone " + target;
    if (located.error != 0) return OsError(what, place.path, located.error);
    const Descriptor source(OpenDescriptor({AT_FDCWD, target, target, true}, O_RDONLY | O_NONBLOCK | O_NOCTTY));
    if (source.get() < 0) return OsError(what, place.path, errno);
    const Descriptor clone(OpenDescriptor(place, O_WRONLY | O_CREAT | O_EXCL, 0666));
    if (clone.get() < 0) return OsError(what, place.path, errno);
    struct stat info = {};  // a clone is seen by no more people than what it is of
    if (::fstat(source.get(), &info) != 0 || ::fchmod(clone.get(), info.st_mode & 0777) != 0 ||
        ::ioctl(clone.get(), FICLONE, source.get()) != 0) {
      const int error_number = errno;
      ::unlinkat(place.at, place.name.c_str(), 0);
      return OsError(what, place.path, error_number);
    }
    return {};
  }

  Status SyncDirectory(const std::string& path) override {
    MIMO_ASSIGN_OR_RETURN(const int directory, OpenDirectory("cannot sync the directory", path));
    const Descriptor fd(directory);
    // Some network file systems write entries through and refuse to sync directories with EINVAL.
    if (Uninterrupted([&] { return ::fsync(fd.get()); }) != 0 && errno != EINVAL)
      return OsError("cannot sync the directory", Shown(path), errno);
    return {};
  }

  Result<std::string> RealPath(const std::string& path) override {
    MIMO_RETURN_IF_ERROR(CheckPath(path));
    char* resolved = ::realpath(Shown(path).c_str(), nullptr);
    if (resolved == nullptr) return OsError("cannot resolve", Shown(path), errno);
    std::string result(resolved);
    std::free(resolved);
    return result;
  }

  Result<std::optional<std::string>> ReadLink(const std::string& path) override {
    MIMO_ASSIGN_OR_RETURN(const Located located, Locate(path));
    std::string text(PATH_MAX, '\0');
    int error_number = located.error;
    ssize_t length = 0;
    if (error_number == 0) {
      length = ::readlinkat(located.place.at, located.place.name.c_str(), text.data(), text.size());
      if (length < 0) error_number = errno;
    }
    if (error_number == EINVAL || error_number == ENOENT || error_number == ENOTDIR)
      return std::optional<std::string>();
    if (error_number != 0) return OsError("cannot read the link", located.place.path, error_number);
    text.resize(static_cast<size_t>(length));
    return std::optional(std::move(text));
  }

  Result<uint64_t> FreeBytes(const std::string& path) override {
    MIMO_RETURN_IF_ERROR(CheckPath(path));
    struct statvfs info = {};
    // What is below one root is taken to be one file system.
    const auto ask = [&] { return rooted() ? ::fstatvfs(root_.get(), &info) : ::statvfs(path.c_str(), &info); };
    if (Uninterrupted(ask) != 0) return OsError("cannot ask for free space", Shown(path), errno);
    return CheckedMul(info.f_bavail, info.f_frsize).value_or(UINT64_MAX);
  }

  Result<std::string> KindOf(const std::string& path) override {
    MIMO_RETURN_IF_ERROR(CheckPath(path));
    struct statfs info = {};
    const auto ask = [&] { return rooted() ? ::fstatfs(root_.get(), &info) : ::statfs(path.c_str(), &info); };
    if (Uninterrupted(ask) != 0) return OsError("cannot ask for the file system", Shown(path), errno);
    for (const auto& [magic, name] : kKinds)
      if (static_cast<uint32_t>(info.f_type) == magic) return std::string(name);
    return std::string();
  }

  bool MayWrite(const std::string& directory) override {
    return CheckPath(directory).ok() &&
           ::faccessat(rooted() ? root_.get() : AT_FDCWD, directory.empty() ? "." : directory.c_str(), W_OK | X_OK,
                       AT_EACCESS) == 0;
  }

  Result<std::unique_ptr<FileSystem>> Beneath(const std::string& root) override {
    MIMO_ASSIGN_OR_RETURN(const int fd, OpenDirectory("cannot open the directory", root));
    return std::unique_ptr<FileSystem>(std::make_unique<Posix>(Descriptor(fd), Shown(root)));
  }

 private:
  // Where a path leads, and what keeps its directory open; or why nothing is there.
  struct Located {
    Place place;
    Descriptor parent;
    int error = 0;
  };

  // The directory itself included.
  static bool IsNameBelow(const std::string& path) {
    for (size_t begin = 0; !path.empty();) {
      const size_t end = std::min(path.find('/', begin), path.size());
      const std::string_view part = std::string_view(path).substr(begin, end - begin);
      if (part.empty() || part == "." || part == "..") return false;
      if (end == path.size()) break;
      begin = end + 1;
    }
    return true;
  }

  bool rooted() const { return root_.get() >= 0; }
  std::string Shown(const std::string& path) const { return rooted() ? JoinPath(path_, path) : path; }

  // kBadInput for what cannot be a path, or is no name below the root.
  Result<Located> Locate(const std::string& path) const {
    MIMO_RETURN_IF_ERROR(CheckPath(path));
    Located located{{AT_FDCWD, path, path, true}, Descriptor(-1)};
    if (!rooted()) return located;
    if (!IsNameBelow(path)) return BadInput("not a name below the directory").File(path);
    located.place = {root_.get(), path.empty() ? "." : path, Shown(path), false};
    for (size_t begin = 0; !path.empty();) {
      const size_t end = path.find('/', begin);
      const std::string name = path.substr(begin, end == std::string::npos ? end : end - begin);
      located.place.name = name;
      if (end == std::string::npos) break;
      Descriptor next(Uninterrupted(
          [&] { return ::openat(located.place.at, name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC); }));
      if (next.get() < 0) {
        located.error = WhyNoDirectory(located.place.at, name, errno);
        break;
      }
      located.place.at = next.get();
      located.parent = std::move(next);
      begin = end + 1;
    }
    return located;
  }

  // ENOTDIR is said of links too where they are not followed.
  static int WhyNoDirectory(int at, const std::string& name, int error_number) {
    struct stat info = {};
    if (error_number != ENOTDIR || ::fstatat(at, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) return error_number;
    return S_ISLNK(info.st_mode) ? ELOOP : error_number;
  }

  Result<int> OpenDirectory(const char* what, const std::string& path) const {
    MIMO_ASSIGN_OR_RETURN(const Located located, Locate(path));
    if (located.error != 0) return OsError(what, located.place.path, located.error);
    const int fd = OpenDescriptor(located.place, O_RDONLY | O_DIRECTORY);
    if (fd >= 0) return fd;
    return OsError(what, located.place.path, WhyNoDirectory(located.place.at, located.place.name, errno));
  }

  const Descriptor root_{-1};
  const std::string path_;  // of the root, for messages
};

}  // namespace

FileSystem& PosixFileSystem() {
  static Posix* const instance = new Posix;  // never destroyed: threads may outlive main
  return *instance;
}

}  // namespace mimo
