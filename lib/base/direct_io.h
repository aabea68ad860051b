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

// What offsets, lengths and addresses of direct requests are multiples of: a power of two, at least 4096. A page of
// this system: enough for every device and file system, and no page of the cache holds what went past it.
uint64_t DirectBlock();
// Less goes by the page cache, in memory that may lie anywhere.
inline constexpr uint64_t kLeastDirectBytes = 64 << 10;

// The first block boundary from `bytes` on.
inline uint64_t UpToBlock(uint64_t bytes) {
  return (bytes + DirectBlock() - 1) / DirectBlock() * DirectBlock();
}

// A second descriptor of an open file, which stays open. From any thread.
class DirectFile {
 public:
  // Of what is open as `fd`, whatever its name has become. kIo where the file system has no direct I/O.
  static Result<DirectFile> Of(int fd, bool writing, const std::string& path, DirectMode mode);

  int fd() const { return fd_.get(); }
  int cached_fd() const { return cached_fd_; }  // of the open file, by the page cache
  const std::string& path() const { return path_; }
  DirectMode mode() const { return mode_; }

 private:
  DirectFile(std::string path, Descriptor fd, int cached_fd, DirectMode mode)
      : path_(std::move(path)), fd_(std::move(fd)), cached_fd_(cached_fd), mode_(mode) {}

  std::string path_;
  Descriptor fd_;
  int cached_fd_;
  DirectMode mode_;
};

// Requests of one thread that are carried out together: with io_uring several are under way at a time, otherwise one
// after the other. What a file system refuses of them, though it let the file be opened so, or breaks off where no
// direct request may begin, goes by the page cache.
class DirectBatch {
 public:
  // Fills `out` from `offset`, of any alignment. `whole_blocks`: `out` lies at an address equal to `offset` modulo
  // DirectBlock(), and what lies around it up to the ends of its first and last block may be overwritten, so that the
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
