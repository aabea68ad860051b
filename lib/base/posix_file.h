// Open files of the operating system: what PosixFileSystem() hands out.
#pragma once

#include <sys/stat.h>

#include <cerrno>
#include <memory>
#include <string>

#include "lib/base/file_system.h"

namespace mimo {

// Owns a file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor();
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
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

// open(2) with O_CLOEXEC, repeated when interrupted; -1 and errno on failure.
int OpenDescriptor(const std::string& path, int flags, unsigned mode = 0);

// kBadInput when the path holds a NUL byte: the system would silently use the part before it.
Status CheckPath(const std::string& path);

// "a directory", "a FIFO" and so on, for messages.
std::string KindName(mode_t mode);

Result<std::unique_ptr<ReadableFile>> OpenPosixForRead(const std::string& path);
Result<std::unique_ptr<WritableFile>> OpenPosixForWrite(const std::string& path, OpenMode mode);

}  // namespace mimo
