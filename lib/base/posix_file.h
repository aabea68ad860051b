// Open files of the operating system: what PosixFileSystem() hands out.
#pragma once

#include <sys/stat.h>

#include <cerrno>
#include <memory>
#include <string>
#include <utility>

#include "lib/base/file_system.h"

namespace mimo {

// Owns a file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(other.Release()) {}
  ~Descriptor();
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  int get() const { return fd_; }
  int Release();

 private:
  int fd_;
};

// What a system call returns that is repeated when interrupted; -1 and errno on failure.
template <class Call>
auto Uninterrupted(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

// Where a call applies: `name` in the directory `at`; `path` is for messages.
struct Place {
  int at;
  std::string name;
  std::string path;
  bool follow;  // a symbolic link at `name`
};

// openat(2) with O_CLOEXEC, and O_NOFOLLOW where the place says so; repeated when interrupted; -1 and errno on failure.
int OpenDescriptor(const Place& place, int flags, unsigned mode = 0);

// What stands at a place, or is open as `fd`; errno's number on failure, else 0.
int LookAt(const Place& place, FileInfo* info);
int LookAt(int fd, FileInfo* info);

// kBadInput when the path holds a NUL byte: the system would silently use the part before it.
Status CheckPath(const std::string& path);

// "a directory", "a FIFO" and so on, for messages.
std::string KindName(mode_t mode);

Result<std::unique_ptr<ReadableFile>> OpenPosixForRead(const Place& place);
Result<std::unique_ptr<ReadableFile>> OpenPosixResolved(const std::string& real_path);  // FileSystem::OpenResolved
Result<std::unique_ptr<WritableFile>> OpenPosixForWrite(const Place& place, OpenMode mode);
Result<std::unique_ptr<LockFile>> OpenPosixLock(const Place& place, OpenMode mode);

}  // namespace mimo
