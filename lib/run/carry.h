// Files of the checkpoint that travel along as they are (tokenizer, code, whole subdirectories). The workers of a run
// share them out among their steps.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
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

  // `from` holds the checkpoint. All references outlive the object.
  CarriedFiles(FileSystem& from, const Catalogue& catalogue, const Plan& plan, const RunOptions& options,
               PartialDirectory& partial);

  // Whether --link is for this file too: those that hold tensors (dflash/model.safetensors). What people edit, and
  // code, are always copies, so that editing an output never edits the checkpoint.
  static bool Links(const std::string& name, const RunOptions& options);

  // Makes the directories that the files go to, and a place in `results` for each. Before any is taken.
  Status Prepare(RunResults* results);
  // Bytes that will be copied or hashed.
  uint64_t progress_bytes() const;

  // A file that nobody else has taken, as an index into Plan::carried; nullopt when none is left. From any thread.
  std::optional<size_t> Take();
  struct Counts {
    uint64_t read = 0, written = 0;  // bytes
    bool linked = false;
  };
  // Copies a file through `chunk`, hashes and syncs it, or links it; replaces what is in its place. A copy has the
  // permissions of the file, without setuid, setgid and sticky bits. From any thread, with a chunk of its own.
  // kBadInput for a file that is no longer what it was or leads out of the checkpoint now, kInterrupted when asked to
  // stop.
  Result<Counts> Carry(size_t file, std::span<std::byte> chunk);

 private:
  Result<Hash128> Copy(const std::string& name, const std::string& real, const std::string& copy,
                       std::span<std::byte> chunk, Counts* counts);

  FileSystem& from_;
  FileSystem& to_;
  const Catalogue& catalogue_;
  const Plan& plan_;
  const RunOptions& options_;
  PartialDirectory& partial_;
  std::optional<CheckpointBounds> bounds_;             // once prepared
  std::string output_;                                 // real path
  std::unordered_map<std::string, FileStamp> stamps_;  // of carried files
  std::vector<CarriedResult>* carried_ = nullptr;      // of the run's results
  std::atomic<size_t> next_ = 0;
};

}  // namespace mimo
