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
  // held: of all of it, or of options.part, beside other parts of as many. kIo where another run holds it, or for a
  // part parts of another number. `fs` and `options` outlive the claim.
  static Result<std::unique_ptr<OutputClaim>> Take(FileSystem& fs, const RunOptions& options);
  // OUT without a lease, for those who only look: nothing may be done in it. It is a directory.
  static Result<std::unique_ptr<OutputClaim>> LookAt(FileSystem& fs, const RunOptions& options);
  // The error that Take would give now, where OUT is a directory that somebody holds. Changes nothing.
  static Status CheckFree(FileSystem& fs, const RunOptions& options);

  // For a part, which is alone in beginning the output until this: what others go on with is there.
  Status EndStart();
  // For a part, before that: kIo where another one is at work. Of what those write nothing may be made anew.
  Status CheckAlone() const;

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
  enum class Others : uint8_t { kAnyPart, kPartsOfAnotherCount };
  Status TakeLeases();
  Status RemoveEmptyPartial() const;
  static Status CheckOthers(FileSystem& files, const RunOptions& options, Others others);

  FileSystem& fs_;
  const RunOptions& options_;
  bool made_ = false;
  std::unique_ptr<FileSystem> files_;
  std::unique_ptr<Lease> start_;  // of a part that has not ended it
  std::unique_ptr<Lease> lease_;
};

}  // namespace mimo
