// Copies of a KV head in attention that is fused in more chunks than the model has KV heads. A conversion reads the
// first of them alone, so that copies which hold something else would be lost without a word.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/forms/checkpoint.h"
#include "lib/judge/finding.h"

namespace mimo {

struct CopyOptions {
  int threads = 0;               // that read; 0: one per CPU that this process may use
  bool sample = false;           // three rows of each copy, not all
  bool allow_anomalies = false;  // what would be errors are warnings
};

// Attention of one layer with a copy that is none.
struct UnequalCopy {
  uint32_t array = 0;      // of the catalogue that the checkpoint shows: fused weight
  uint64_t copies = 0;     // that hold something else than the first of their head
  int64_t first_row = 0;   // of the first such copy: where the head is first,
  int64_t second_row = 0;  // where it is again,
  std::string what = {};   // and what was found, for people
};

// Fills a span with rows of a stored array, from the given one on. From any thread.
using StoredRowReader = std::function<Status(const StoredArray& array, int64_t row, std::span<std::byte> out)>;

// Compares every copy with the first of its head, in the order of layers. Values, and codes whose scales lie in their
// rows, are to be of the same bytes. FP8 codes under scales of blocks or rows are to be of the same values where both
// lie under equal scales; else, as where one copy's block was quantized again together with other rows, some value must
// round to both. Of rank files the copies of other ranks, where these are no replicas of the view, which a plan
// compares. What `read` fails with.
Result<std::vector<UnequalCopy>> FindUnequalCopies(const StoredRowReader& read, const Checkpoint& checkpoint,
                                                   const CopyOptions& options = {});

// The same as findings, "layout.unequal_copies". kIo.
Result<Verdict> JudgeCopies(FileSystem& fs, const Checkpoint& checkpoint, const CopyOptions& options = {});

}  // namespace mimo
