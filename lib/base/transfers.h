// Reads and writes of several ranges of files at once: past the page cache where a file is (UseDirect), as any file
// otherwise. Small ranges, and the ends of written ones that fill no block, go by the page cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "lib/base/file_system.h"
#include "lib/base/status.h"

namespace mimo {

struct ReadRequest {
  const ReadableFile* file = nullptr;
  uint64_t offset = 0;
  std::span<std::byte> out;
  // `out` lies at an address equal to `offset` modulo DirectBlock() (direct_io.h), and what is around it, up to the
  // ends of its first and last block, may be overwritten.
  bool whole_blocks = false;
};

struct WriteRequest {
  WritableFile* file = nullptr;
  uint64_t offset = 0;
  std::span<const std::byte> data;
};

// Fill all of `requests`, and write all of them; ranges of writes do not overlap. On failure what was met first
// (ReadableFile::ReadAt, WritableFile::WriteAt), and some of the rest may not be done. From any thread.
Status ReadAll(std::span<const ReadRequest> requests);
Status WriteAll(std::span<const WriteRequest> requests);

}  // namespace mimo
