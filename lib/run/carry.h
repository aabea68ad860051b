// Files of the checkpoint that travel along as they are (tokenizer, code, whole subdirectories). The workers of a run
// share them out among their steps.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/model/catalogue.h"
#include "lib/results/manifest.h"
#include "lib/run/options.h"
#include "lib/run/partial.h"

namespace mimo {

class CarriedFiles {
 public:
  // Large enough a buffer for any file system; a smaller one does too.
  static constexpr uint64_t kChunkBytes = 8 << 20;

  // Files are linked as tensor files are, but never symbolically. All references outlive the object.
  CarriedFiles(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, const RunOptions& options,
               PartialDirectory& partial);

  // Makes the directories that the files go to, and a place in `results` for each. Before any is taken.
  Status Prepare(RunResults* results);
  // Bytes that will be read and written.
  uint64_t progress_bytes() const;

  // A file that nobody else has taken, as an index into Plan::carried; nullopt when none is left. From any thread.
  std::optional<size_t> Take();
  struct Counts {
    uint64_t read = 0, written = 0;  // bytes
    bool linked = false;
  };
  // Copies a file through `chunk`, hashes and syncs it, or links it; replaces what is in its place. From any thread,
  // with a chunk of its own. kBadInput for a file that is no longer what it was, kInterrupted when asked to stop.
  Result<Counts> Carry(size_t file, std::span<std::byte> chunk);

 private:
  Result<Hash128> Copy(const std::string& from, const std::string& to, std::span<std::byte> chunk, Counts* counts);

  FileSystem& fs_;
  const Catalogue& catalogue_;
  const Plan& plan_;
  const RunOptions& options_;
  PartialDirectory& partial_;
  const bool links_;
  std::vector<CarriedResult>* carried_ = nullptr;  // of the run's results
  std::atomic<size_t> next_ = 0;
};

}  // namespace mimo
