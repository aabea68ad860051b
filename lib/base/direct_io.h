// Files past the page cache (O_DIRECT): no copy by the kernel, no memory of the system for data that nobody reads
// again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "lib/base/posix_file.h"
#include "lib/base/status.h"

namespace mimo {

// What offsets, lengths and addresses of direct requests are multiples of: enough for every device and file system.
inline constexpr uint64_t kDirectBlock = 4096;

// A second descriptor of an open file. From any thread.
class DirectFile {
 public:
  // Of what is open as `fd`, whatever its name has become. kIo where the file system has no direct I/O.
  static Result<DirectFile> Of(int fd, bool writing, const std::string& path);

  // Fills `out` from `offset`, of any alignment. kBadInput ("truncated") at the end of the file.
  Status Read(uint64_t offset, std::span<std::byte> out) const;
  // Writes whole blocks; `data` may lie anywhere.
  Status Write(uint64_t offset, std::span<const std::byte> data) const;

 private:
  DirectFile(std::string path, Descriptor fd) : path_(std::move(path)), fd_(std::move(fd)) {}

  std::string path_;
  Descriptor fd_;
};

}  // namespace mimo
