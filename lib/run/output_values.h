// The values of an output, hashed before it is published: from the files that were written, by an earlier run or this
// one, so that what the manifest says is true of what is there. They were read last or written a moment ago, and what
// of them is in the memory of the system is not read from the disk again.
#pragma once

#include <cstdint>
#include <memory>

#include "lib/base/status.h"
#include "lib/forms/checkpoint.h"
#include "lib/plan/plan.h"
#include "lib/results/manifest.h"
#include "lib/run/options.h"
#include "lib/run/partial.h"

namespace mimo {

class OutputValues {
 public:
  // All outlive it.
  OutputValues(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, const RunOptions& options,
               const PartialDirectory& partial)
      : fs_(fs), catalogue_(catalogue), plan_(plan), options_(options), partial_(partial) {}

  // Without options.hash_values both do nothing. kUsage: what would be written is no whole checkpoint that can be
  // opened again. kIo.
  Status Check() const;
  // Once every file group is complete: fills results->logical_hashes. kUsage, where Check could not see it; the
  // partial directory stays for --resume without --hash-values. kIo, kInterrupted.
  Status Hash(RunResults* results) const;

 private:
  Result<std::unique_ptr<ReadableFile>> OpenWritten(uint32_t file, const RunResults& results) const;
  OpenOptions HowToOpen() const;

  FileSystem& fs_;
  const Catalogue& catalogue_;
  const Plan& plan_;
  const RunOptions& options_;
  const PartialDirectory& partial_;
};

}  // namespace mimo
