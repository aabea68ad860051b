// Files past the page cache (O_DIRECT): no copy by the kernel, no memory of the system for data that nobody reads
// again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lib/base/posix_file.h"
#include "lib/base/status.h"

namespace mimo {

// What offsets, lengths and addresses of direct requests are multiples of: enough for every device and file system.
inline constexpr uint64_t kDirectBlock = 4096;
// Less goes by the page cache, in memory that may lie anywhere.
inline constexpr uint64_t kLeastDirectBytes = 64 << 10;

// The first block boundary from `bytes` on.
constexpr uint64_t UpToBlock(uint64_t bytes) {
  return (bytes + kDirectBlock - 1) / kDirectBlock * kDirectBlock;
}

// A second descriptor of an open file. From any thread.
class DirectFile {
 public:
  // Of what is open as `fd`, whatever its name has become. kIo where the file system has no direct I/O.
  static Result<DirectFile> Of(int fd, bool writing, const std::string& path, DirectMode mode);

  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }
  DirectMode mode() const { return mode_; }

 private:
  DirectFile(std::string path, Descriptor fd, DirectMode mode)
      : path_(std::move(path)), fd_(std::move(fd)), mode_(mode) {}

  std::string path_;
  Descriptor fd_;
  DirectMode mode_;
};

// Requests of one thread that are carried out together: with io_uring several are under way at a time, otherwise one
// after the other.
class DirectBatch {
 public:
  // Fills `out` from `offset`, of any alignment. `whole_blocks`: `out` lies at an address equal to `offset` modulo
  // kDirectBlock, and what lies around it up to the ends of its first and last block may be overwritten, so that the
  // data comes without a copy. `file` and `out` outlive Run.
  void Read(const DirectFile& file, uint64_t offset, std::span<std::byte> out, bool whole_blocks);
  // Writes whole blocks; `data` may lie anywhere, and goes without a copy where it is aligned.
  void Write(const DirectFile& file, uint64_t offset, std::span<const std::byte> data);

  // Returns when none is under way any more, with what failed first: kIo, or kBadInput ("truncated") at the end of a
  // file. Those that were not begun by then are left out.
  Status Run();

  // What one system call moves.
  struct Piece {
    const DirectFile* file = nullptr;
    bool writing = false;
    uint64_t begin = 0;           // in the file; whole blocks
    uint64_t bytes = 0;           // whole blocks
    uint64_t needed = 0;          // of these: the file may end after them
    std::byte* memory = nullptr;  // of `bytes`, aligned; null: of the thread, and copied from or to `data`
    std::byte* data = nullptr;    // of the caller, never written to by a write
    uint64_t skipped = 0;         // bytes from `begin` on before those of `data`
  };

 private:
  std::vector<Piece> pieces_;
};

// Whether this thread can have several requests under way: what it was built with and what the system allows.
bool HasRequestQueue();

}  // namespace mimo
