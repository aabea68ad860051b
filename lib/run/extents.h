// Byte ranges of files gathered into few large requests, and where each lies in a buffer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mimo {

// A contiguous range of a file and its place in the buffer.
struct Extent {
  uint32_t file = 0;
  uint64_t begin = 0;  // in the file
  uint64_t bytes = 0;
  uint64_t offset = 0;  // in the buffer; equal to `begin` modulo 64, so data that is aligned in the file is in memory
  // The offset is equal to `begin` modulo DirectBlock() (lib/base/direct_io.h), and the blocks it begins and ends in
  // hold nothing else, so that whole blocks may be read.
  bool whole_blocks = false;
};

class Extents {
 public:
  // Ranges may overlap and repeat.
  void Add(uint32_t file, uint64_t begin, uint64_t bytes);
  // Merges ranges of a file that overlap or lie at most `max_gap` bytes apart, and places them from buffer offset
  // `base` on; `whole_blocks`: where large ranges may be read or written by whole blocks of a buffer that begins at
  // one. When the gaps would take the total above `limit`, only ranges that touch are merged; then blocks are no
  // matter. May be repeated.
  void Place(uint64_t base, uint64_t max_gap, uint64_t limit, bool whole_blocks = false);

  const std::vector<Extent>& list() const { return extents_; }
  // The first buffer offset after them; `base` when there are none.
  uint64_t end() const { return end_; }
  // Buffer offset of byte `begin` of `file`, which must lie in a range that was added.
  uint64_t OffsetOf(uint32_t file, uint64_t begin) const;

 private:
  void Merge(uint64_t base, uint64_t max_gap, bool whole_blocks);

  std::vector<Extent> ranges_;
  std::vector<Extent> extents_;
  uint64_t end_ = 0;
};

}  // namespace mimo
