// OUT, taken by one run: the directory, held open, under a lease.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/owner/lease.h"
#include "lib/run/options.h"

namespace mimo {

class OutputClaim {
 public:
  // Takes options.output, which is made, durably, where there is none; nothing of it is looked at before the lease is
  // held. kIo where another run holds it. `fs` and `options` outlive the claim.
  static Result<std::unique_ptr<OutputClaim>> Take(FileSystem& fs, const RunOptions& options);
  // The error that Take would give now, where OUT is a directory that somebody holds. Changes nothing.
  static Status CheckFree(FileSystem& fs, const RunOptions& options);

  // Gives OUT back, errors unseen.
  ~OutputClaim();
  OutputClaim(const OutputClaim&) = delete;
  OutputClaim& operator=(const OutputClaim&) = delete;

  const std::string& path() const { return options_.output; }
  // OUT and what lies below it, by names relative to it (FileSystem::Beneath).
  FileSystem& files() const { return *files_; }
  bool made() const { return made_; }  // OUT did not exist before

  // Whether to go on: kInterrupted when asked to stop, kIo when the lease is lost. Cheap; from any thread.
  Status CheckStop() const;
  Status CheckLease() const;
  // Looks at the lease itself: before anything that cannot be undone.
  Status Confirm() const;
  // Whether the directory that is held still is what its path leads to; a link there leads to none that was made.
  Result<bool> IsAtPath() const;
  // Gives OUT back. `remove_empty`: and removes it when it is empty.
  Status Release(bool remove_empty);

 private:
  OutputClaim(FileSystem& fs, const RunOptions& options) : fs_(fs), options_(options) {}

  FileSystem& fs_;
  const RunOptions& options_;
  bool made_ = false;
  std::unique_ptr<FileSystem> files_;
  std::unique_ptr<Lease> lease_;
};

}  // namespace mimo
