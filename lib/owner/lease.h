// Who writes into a directory: a file there that people can read, renewed while its owner lives, beside the file
// system's advisory lock where it has one (docs/formats.md). A run holds one lease of OUT; parts of a run may hold
// leases of other names in it.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/base/this_process.h"

namespace mimo {

// The batch job that a process belongs to, as its scheduler tells.
struct BatchJob {
  std::string id = {};    // "": none
  uint64_t restarts = 0;  // how often it was requeued
};

// Who asks. Two processes are of one system when host and boot are the same.
struct LeaseOwner {
  std::string host = {};       // its name
  std::string boot = {};       // what the system drew when it started; "" where it does not tell
  std::string processes = {};  // the name space that `pid` is a number of; "" likewise
  int64_t pid = 0;
  BatchJob job = {};

  // This process.
  static LeaseOwner Here(const BatchJob& job);
};

struct LeaseTimes {
  using Time = std::chrono::milliseconds;
  Time renew = std::chrono::seconds(10);
  Time stale = std::chrono::seconds(60);        // without renewal, by the clock of the file system
  Time patience = std::chrono::seconds(20);     // of renewing, when the file system fails
  Time settle = std::chrono::seconds(1);        // between claiming and believing, where there are no locks
  Time retry = std::chrono::milliseconds(300);  // for a lock that somebody only looks at, or for its owner to end
};

// Whether `file`, a name in the folder of the lease `name`, is that lease, or stands beside it for a moment.
bool BelongsToLease(std::string_view name, std::string_view file);

class Lease {
 public:
  // Takes the lease `name` in `directory` (FileSystem::Beneath), which outlives it; folders in the name are made; it is
  // renewed from then on, on a thread of its own where one can be had. It is given where there is none, where its owner
  // is dead for certain (a process of this system without the lock), where it was not renewed for `stale`, and where
  // `owner` is a later start of the very job that holds it, which then has to let go. Else kIo, which says who holds
  // it, since when.
  // `stop`, if any, ends all waiting once it is not 0: kInterrupted.
  static Result<std::unique_ptr<Lease>> Take(FileSystem& directory, const std::string& name, const LeaseOwner& owner,
                                             const LeaseTimes& times = {}, const std::atomic<int>* stop = nullptr);
  // Whether somebody holds it now; the error that Take would give. Changes nothing.
  static Status CheckFree(FileSystem& directory, const std::string& name, const LeaseOwner& owner,
                          const LeaseTimes& times = {});

  // Gives it back.
  ~Lease();
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  // kIo once the lease is another's, has disappeared or could not be renewed in time. Cheap; from any thread.
  Status Check();
  // The same after a look at the file itself: before anything that cannot be undone.
  Status Confirm();
  // Stops renewing and removes the file, if it is still this lease's, and its folder if nothing else is in it.
  Status Release();

 private:
  using Clock = BootClock;
  struct Content;  // what the file says
  struct Refusal {
    std::string who = {};     // "": it may be taken
    bool lives_here = false;  // on this system, for certain
  };

  Lease(FileSystem& directory, std::string name, const LeaseOwner& owner, const LeaseTimes& times,
        const std::atomic<int>* stop);

  static Content Parse(const std::string& text);
  static Result<Refusal> WhyNot(FileSystem& directory, const std::string& name, const Content& content,
                                LockFile::Lock lock, const FileInfo& info, const LeaseOwner& owner,
                                const LeaseTimes& times);
  static Error Held(FileSystem& directory, const std::string& name, const Refusal& refusal, const LeaseTimes& times);
  std::string Text() const;
  Result<Content> ReadContent();
  Status Remove();
  Status Acquire();
  Result<bool> AcquireOnce(Refusal* refusal);
  Result<bool> Displace(Refusal* refusal);
  Status Renew();
  Status TryRenew();
  void Lose(Error error);
  void RenewForEver();

  FileSystem& directory_;
  const std::string name_;
  const LeaseOwner owner_;
  const LeaseTimes times_;
  const std::atomic<int>* const stop_waiting_;
  const std::string token_;    // tells this lease from all others
  const std::string started_;  // for people
  std::unique_ptr<LockFile> file_;
  std::atomic<bool> locked_ = false;  // the file's lock is this lease's
  std::thread thread_;
  std::atomic<Clock::time_point> renewed_;
  std::atomic<bool> is_lost_ = false;
  std::timed_mutex mutex_;  // of renewing, and of what follows
  std::condition_variable_any wake_;
  bool stop_ = false;
  std::optional<Error> lost_;
};

}  // namespace mimo
