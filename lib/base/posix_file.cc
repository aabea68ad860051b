#include "lib/base/posix_file.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <optional>
#include <utility>

#include "lib/base/direct_io.h"
#include "lib/base/os_error.h"

namespace mimo {
namespace {

constexpr uint64_t kMaxOffset = static_cast<uint64_t>(std::numeric_limits<off_t>::max());
// Linux moves at most a little under 2 GiB per call; asking for less keeps every request whole.
constexpr uint64_t kMaxRequest = uint64_t{1} << 30;
constexpr size_t kMaxLockBytes = 64 << 10;

// The system refuses a request whose end off_t cannot say.
size_t RequestSize(uint64_t wanted, uint64_t position) {
  return static_cast<size_t>(std::min({wanted, kMaxRequest, kMaxOffset - position}));
}

Error Truncated(const std::string& path, uint64_t offset, uint64_t wanted, uint64_t got) {
  return BadInput("truncated")
      .File(path)
      .Expected(std::to_string(wanted) + " bytes at offset " + std::to_string(offset))
      .Found(std::to_string(got) + " bytes")
      .Advice("see whether something still writes to the file, or its download ended early");
}

Error NotRegular(ErrorCode code, const std::string& path, mode_t mode) {
  return Error{.code = code, .what = "not a regular file"}
      .File(path)
      .Expected("a regular file")
      .Found(KindName(mode))
      .Advice("put a regular file in its place");
}

Result<FileInfo> InfoOfOpen(int fd, const std::string& path) {
  FileInfo info;
  if (const int error_number = LookAt(fd, &info)) return OsError("cannot look at", path, error_number);
  return info;
}

class PosixReadableFile final : public ReadableFile {
 public:
  PosixReadableFile(std::string path, int fd, uint64_t size) : path_(std::move(path)), fd_(fd), size_(size) {}

  Status ReadAt(uint64_t offset, std::span<std::byte> out) const override {
    size_t done = 0;
    while (done < out.size()) {
      const uint64_t position = offset + done;
      // Past what off_t can say there cannot be data; the second comparison catches a wrapped sum.
      if (position >= kMaxOffset || position < offset) return Truncated(path_, offset, out.size(), done);
      const ssize_t n = Uninterrupted([&] {
        return ::pread(fd_.get(), out.data() + done, RequestSize(out.size() - done, position),
                       static_cast<off_t>(position));
      });
      if (n < 0) return OsError("cannot read", path_, errno);
      if (n == 0) return Truncated(path_, offset, out.size(), done);
      done += static_cast<size_t>(n);
    }
    return {};
  }

  uint64_t size() const override { return size_; }

  Status UseDirect(DirectMode mode) override {
    MIMO_ASSIGN_OR_RETURN(direct_, DirectFile::Of(fd_.get(), false, path_, mode));
    return {};
  }
  const DirectFile* direct() const override { return direct_ ? &*direct_ : nullptr; }

  Result<FileInfo> Info() const override { return InfoOfOpen(fd_.get(), path_); }

 private:
  const std::string path_;
  const Descriptor fd_;
  const uint64_t size_;
  std::optional<DirectFile> direct_;
};

class PosixWritableFile final : public WritableFile {
 public:
  PosixWritableFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  Status WriteAt(uint64_t offset, std::span<const std::byte> data) override {
    size_t done = 0;
    while (done < data.size()) {
      const uint64_t position = offset + done;
      if (position >= kMaxOffset || position < offset) return OsError("cannot write", path_, EFBIG);
      const ssize_t n = Uninterrupted([&] {
        return ::pwrite(fd_.get(), data.data() + done, RequestSize(data.size() - done, position),
                        static_cast<off_t>(position));
      });
      if (n < 0) return OsError("cannot write", path_, errno);
      if (n == 0) return OsError("cannot write", path_, ENOSPC);
      done += static_cast<size_t>(n);
    }
    return {};
  }

  Status UseDirect(DirectMode mode) override {
    MIMO_ASSIGN_OR_RETURN(direct_, DirectFile::Of(fd_.get(), true, path_, mode));
    return {};
  }
  const DirectFile* direct() const override { return direct_ ? &*direct_ : nullptr; }

  Status Allocate() override {
    MIMO_ASSIGN_OR_RETURN(const FileInfo info, Info());
    if (info.size == 0 ||
        Uninterrupted([&] { return ::fallocate(fd_.get(), 0, 0, static_cast<off_t>(info.size)); }) == 0)
      return {};
    return errno == ENOSPC || errno == EDQUOT || errno == EFBIG ? Status(OsError("cannot allocate", path_, errno))
                                                                : Status();
  }

  void StartWriting(uint64_t offset, uint64_t bytes) override {
    static_cast<void>(
        ::sync_file_range(fd_.get(), static_cast<off_t>(offset), static_cast<off_t>(bytes), SYNC_FILE_RANGE_WRITE));
  }

  Status Truncate(uint64_t size) override {
    if (size > kMaxOffset) return OsError("cannot set the length", path_, EFBIG);
    if (Uninterrupted([&] { return ::ftruncate(fd_.get(), static_cast<off_t>(size)); }) != 0)
      return OsError("cannot set the length", path_, errno);
    return {};
  }

  Status SetMode(uint32_t mode) override {
    if (Uninterrupted([&] { return ::fchmod(fd_.get(), static_cast<mode_t>(mode)); }) != 0)
      return OsError("cannot set the permissions", path_, errno);
    return {};
  }

  Status Sync() override {
    // fdatasync would do for data and length, but fsync is what every network file system honours.
    if (Uninterrupted([&] { return ::fsync(fd_.get()); }) != 0) return OsError("cannot sync", path_, errno);
    return {};
  }

  Result<FileInfo> Info() const override { return InfoOfOpen(fd_.get(), path_); }

  Status Close() override {
    direct_.reset();
    const int fd = fd_.Release();
    if (fd < 0) return {};
    // Not repeated on EINTR: the descriptor is gone either way. Deferred write errors are reported here.
    if (::close(fd) != 0 && errno != EINTR) return OsError("cannot close", path_, errno);
    return {};
  }

 private:
  const std::string path_;
  Descriptor fd_;
  std::optional<DirectFile> direct_;
};

class PosixLockFile final : public LockFile {
 public:
  PosixLockFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  Lock TryLock() override {
    if (Uninterrupted([&] { return ::flock(fd_.get(), LOCK_EX | LOCK_NB); }) == 0) return Lock::kHeld;
    return errno == EWOULDBLOCK ? Lock::kTaken : Lock::kNone;
  }

  Result<std::string> Read() const override {
    std::string content(kMaxLockBytes, '\0');
    size_t done = 0;
    while (done < content.size()) {
      const ssize_t n = Uninterrupted(
          [&] { return ::pread(fd_.get(), content.data() + done, content.size() - done, static_cast<off_t>(done)); });
      if (n < 0) return OsError("cannot read", path_, errno);
      if (n == 0) break;
      done += static_cast<size_t>(n);
    }
    content.resize(done);
    return content;
  }

  Status Write(std::string_view content) override {
    for (size_t done = 0; done < content.size();) {
      const ssize_t n = Uninterrupted(
          [&] { return ::pwrite(fd_.get(), content.data() + done, content.size() - done, static_cast<off_t>(done)); });
      if (n <= 0) return OsError("cannot write", path_, n < 0 ? errno : ENOSPC);
      done += static_cast<size_t>(n);
    }
    const auto length = static_cast<off_t>(content.size());
    if (Uninterrupted([&] { return ::ftruncate(fd_.get(), length); }) != 0)
      return OsError("cannot set the length", path_, errno);
    if (Uninterrupted([&] { return ::fsync(fd_.get()); }) != 0) return OsError("cannot sync", path_, errno);
    return {};
  }

  Result<FileInfo> Info() const override { return InfoOfOpen(fd_.get(), path_); }

 private:
  const std::string path_;
  const Descriptor fd_;
};

}  // namespace

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

int Descriptor::Release() {
  return std::exchange(fd_, -1);
}

int OpenDescriptor(const Place& place, int flags, unsigned mode) {
  flags |= O_CLOEXEC | (place.follow ? 0 : O_NOFOLLOW);
  return Uninterrupted([&] { return ::openat(place.at, place.name.c_str(), flags, static_cast<mode_t>(mode)); });
}

namespace {

int64_t Nanoseconds(const struct statx_timestamp& time) {
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

int LookAt(int at, const char* name, int flags, FileInfo* out) {
  struct statx info = {};
  if (Uninterrupted([&] { return ::statx(at, name, flags, STATX_BASIC_STATS | STATX_BTIME, &info); }) != 0)
    return errno;
  *out = FileInfo();
  if (S_ISREG(info.stx_mode)) out->kind = FileKind::kRegular;
  if (S_ISDIR(info.stx_mode)) out->kind = FileKind::kDirectory;
  out->symlink = S_ISLNK(info.stx_mode);
  out->mode = info.stx_mode & 07777u;
  out->size = info.stx_size;
  out->allocated = info.stx_blocks * 512;
  out->mtime_ns = Nanoseconds(info.stx_mtime);
  out->ctime_ns = Nanoseconds(info.stx_ctime);
  if ((info.stx_mask & STATX_BTIME) != 0) out->birth_ns = Nanoseconds(info.stx_btime);
  out->device = gnu_dev_makedev(info.stx_dev_major, info.stx_dev_minor);
  out->inode = info.stx_ino;
  return 0;
}

}  // namespace

int LookAt(const Place& place, FileInfo* info) {
  return LookAt(place.at, place.name.c_str(), place.follow ? 0 : AT_SYMLINK_NOFOLLOW, info);
}

int LookAt(int fd, FileInfo* info) {
  return LookAt(fd, "", AT_EMPTY_PATH, info);
}

Status CheckPath(const std::string& path) {
  if (path.find('\0') == std::string::npos) return {};
  return BadInput("path contains a NUL byte").File(path.substr(0, path.find('\0')));
}

std::string KindName(mode_t mode) {
  if (S_ISREG(mode)) return "a regular file";
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode)) return "a character device";
  if (S_ISBLK(mode)) return "a block device";
  return "something else";
}

namespace {

constexpr int kReadFlags = O_RDONLY | O_NONBLOCK | O_NOCTTY;

// openat2(2) with RESOLVE_NO_SYMLINKS. Kernels before 5.6, and sandboxes that do not know the call, leave the last
// component alone to be guarded.
int OpenWithoutLinks(const Place& place) {
#ifdef SYS_openat2
  open_how how = {};
  how.flags = static_cast<uint64_t>(kReadFlags | O_CLOEXEC);
  how.resolve = RESOLVE_NO_SYMLINKS;
  const long fd = Uninterrupted([&] { return ::syscall(SYS_openat2, place.at, place.name.c_str(), &how, sizeof how); });
  if (fd >= 0 || (errno != ENOSYS && errno != EPERM)) return static_cast<int>(fd);
#endif
  return OpenDescriptor(place, kReadFlags);
}

// Asks what stands there before opening, because opening a device may do something and opening a socket fails without
// saying why; asks again after, because it may have changed. O_NONBLOCK keeps a FIFO that slips in from blocking.
template <class Open>
Result<std::unique_ptr<ReadableFile>> OpenRegular(const Place& place, Open open) {
  const std::string& path = place.path;
  struct stat info = {};
  if (::fstatat(place.at, place.name.c_str(), &info, place.follow ? 0 : AT_SYMLINK_NOFOLLOW) != 0)
    return OsError("cannot open for reading", path, errno);
  if (S_ISLNK(info.st_mode)) return OsError("cannot open for reading", path, ELOOP);
  if (!S_ISREG(info.st_mode)) return NotRegular(ErrorCode::kBadInput, path, info.st_mode);
  Descriptor fd(open(place));
  if (fd.get() < 0) return OsError("cannot open for reading", path, errno);
  if (::fstat(fd.get(), &info) != 0) return OsError("cannot open for reading", path, errno);
  if (!S_ISREG(info.st_mode)) return NotRegular(ErrorCode::kBadInput, path, info.st_mode);
  const auto size = static_cast<uint64_t>(info.st_size);
  return std::unique_ptr<ReadableFile>(std::make_unique<PosixReadableFile>(path, fd.Release(), size));
}

}  // namespace

Result<std::unique_ptr<ReadableFile>> OpenPosixForRead(const Place& place) {
  return OpenRegular(place, [](const Place& there) { return OpenDescriptor(there, kReadFlags); });
}

Result<std::unique_ptr<ReadableFile>> OpenPosixResolved(const std::string& real_path) {
  MIMO_RETURN_IF_ERROR(CheckPath(real_path));
  return OpenRegular({AT_FDCWD, real_path, real_path, false}, OpenWithoutLinks);
}

Result<std::unique_ptr<WritableFile>> OpenPosixForWrite(const Place& place, OpenMode mode) {
  const std::string& path = place.path;
  int flags = O_WRONLY | O_NONBLOCK | O_NOCTTY;
  if (mode != OpenMode::kExisting) flags |= O_CREAT;
  if (mode == OpenMode::kCreateNew) flags |= O_EXCL;
  if (mode == OpenMode::kTruncate) flags |= O_TRUNC;
  Descriptor fd(OpenDescriptor(place, flags, 0666));
  if (fd.get() < 0) return OsError("cannot open for writing", path, errno);
  struct stat info = {};
  if (::fstat(fd.get(), &info) != 0) return OsError("cannot open for writing", path, errno);
  if (!S_ISREG(info.st_mode)) return NotRegular(ErrorCode::kIo, path, info.st_mode);
  return std::unique_ptr<WritableFile>(std::make_unique<PosixWritableFile>(path, fd.Release()));
}

Result<std::unique_ptr<LockFile>> OpenPosixLock(const Place& place, OpenMode mode) {
  Place here = place;
  here.follow = false;
  const int create = mode == OpenMode::kExisting ? 0 : O_CREAT;
  Descriptor fd(OpenDescriptor(here, O_RDWR | create | O_NONBLOCK | O_NOCTTY, 0666));
  if (fd.get() < 0) return OsError("cannot open for locking", place.path, errno);
  struct stat info = {};
  if (::fstat(fd.get(), &info) != 0) return OsError("cannot open for locking", place.path, errno);
  if (!S_ISREG(info.st_mode)) return NotRegular(ErrorCode::kIo, place.path, info.st_mode);
  return std::unique_ptr<LockFile>(std::make_unique<PosixLockFile>(place.path, fd.Release()));
}

}  // namespace mimo
