#include "lib/owner/lease.h"

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <new>
#include <nlohmann/json.hpp>
#include <random>
#include <system_error>
#include <utility>

#include "lib/base/hash.h"
#include "lib/json/members.h"
#include "lib/json/parse.h"
#include "lib/json/text.h"

namespace mimo {

using std::chrono::milliseconds;

struct Lease::Content {
  LeaseOwner owner;
  std::string started, renewed;  // for people
  std::string token;
  bool locked = false;  // its owner had the lock when it last wrote
};

namespace {

constexpr char kProbe[] = ".now-";
constexpr uint64_t kMaxLeaseBytes = 64 << 10;
constexpr milliseconds kPoll{50};
constexpr milliseconds kLongPoll{500};  // where somebody is ready to wait for minutes

std::string Now() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts = {};
  ::gmtime_r(&now, &parts);
  char text[32];
  return std::string(text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts));
}

std::string NewToken() {
  std::random_device random;
  const auto word = [&] { return uint64_t{random()} << 32 | random(); };
  return Hash128{word(), word()}.Hex();
}

bool OneSystem(const LeaseOwner& a, const LeaseOwner& b) {
  return !a.boot.empty() && a.host == b.host && a.boot == b.boot;
}

// Whether `a` is a later start of the job that `b` is of.
bool Outranks(const LeaseOwner& a, const LeaseOwner& b) {
  return !a.job.id.empty() && a.job.id == b.job.id && a.job.restarts > b.job.restarts;
}

std::string Seconds(std::chrono::nanoseconds time) {
  return std::to_string(std::chrono::duration_cast<std::chrono::seconds>(time).count()) + " s";
}

// "node7, process 42, job 12, since ..., last renewed ..."
std::string WhoIs(const LeaseOwner& owner, const std::string& started, const std::string& renewed) {
  std::string text = owner.host + ", process " + std::to_string(owner.pid);
  if (!owner.job.id.empty()) text += ", job " + owner.job.id;
  return text + ", since " + started + ", last renewed " + renewed;
}

// Where the lease is, for messages.
std::string Shown(FileSystem& directory, const std::string& name) {
  const auto real = directory.RealPath("");
  return real.ok() ? JoinPath(real.value(), name) : name;
}

// The time of the file system: that of a file made now. Its name does not matter once it is open.
Result<int64_t> TimeOf(FileSystem& directory, const std::string& probe) {
  MIMO_ASSIGN_OR_RETURN(const auto file, directory.OpenForWrite(probe, OpenMode::kCreateNew));
  Status written = file->WriteAt(0, std::as_bytes(std::span("now", 3)));
  const auto info = file->Info();
  MIMO_RETURN_IF_ERROR(file->Close());
  MIMO_RETURN_IF_ERROR(directory.Remove(probe));
  MIMO_RETURN_IF_ERROR(std::move(written));
  if (!info.ok()) return info.error();
  return info.value().mtime_ns;
}

}  // namespace

bool BelongsToLease(std::string_view name, std::string_view file) {
  name.remove_prefix(name.rfind('/') + 1);
  return file == name || (file.starts_with(name) && file.substr(name.size()).starts_with(kProbe));
}

LeaseOwner LeaseOwner::Here(const BatchJob& job) {
  const ProcessName process = ThisProcess();
  return {process.host, process.boot, process.space, process.id, job};
}

Lease::Lease(FileSystem& directory, std::string name, const LeaseOwner& owner, const LeaseTimes& times,
             const std::atomic<int>* stop)
    : directory_(directory),
      name_(std::move(name)),
      owner_(owner),
      times_(times),
      stop_waiting_(stop),
      token_(NewToken()),
      started_(Now()),
      renewed_(Clock::now()) {}

// What cannot be read has no token: it is nobody's that can be named.
Lease::Content Lease::Parse(const std::string& text) {
  Content content;
  const auto document = ParseJson<nlohmann::json>(text, "");
  if (!document.ok()) return content;
  JsonProblems problems("", "");
  JsonMembers members(document.value(), problems, "lease");
  content.owner.host = members.String("host");
  content.owner.pid = members.Integer<int64_t>("pid");
  content.owner.job.id = members.String("job_id", "");
  content.owner.job.restarts = members.Integer<uint64_t>("restarts", 0);
  content.started = members.String("started");
  content.renewed = members.String("renewed");
  content.owner.boot = members.String("boot", "");
  content.owner.processes = members.String("processes", "");
  content.token = members.String("token");
  content.locked = members.Bool("locked", false);
  return problems.ok() ? content : Content();
}

std::string Lease::Text() const {
  std::string text = "{\n";
  const auto line = [&](const char* key, const std::string& value) {
    text += std::string("  \"") + key + "\": ";
    AppendJsonString(text, value);
    text += ",\n";
  };
  line("format", "mimo-lease");
  line("host", owner_.host);
  text += "  \"pid\": " + std::to_string(owner_.pid) + ",\n";
  line("job_id", owner_.job.id);
  text += "  \"restarts\": " + std::to_string(owner_.job.restarts) + ",\n";
  line("started", started_);
  line("renewed", Now());
  line("boot", owner_.boot);
  line("processes", owner_.processes);
  line("token", token_);
  text += std::string("  \"locked\": ") + (locked_ ? "true" : "false") + ",\n";
  return text + "  \"version\": 1\n}\n";
}

// Who holds the lease, where `owner` may not take it. `lock` is what was said of the file's lock.
Result<Lease::Refusal> Lease::WhyNot(FileSystem& directory, const std::string& name, const Content& content,
                                     LockFile::Lock lock, const FileInfo& info, const LeaseOwner& owner,
                                     const LeaseTimes& times) {
  const bool named = !content.token.empty();
  const bool here = named && OneSystem(owner, content.owner);
  const std::string who = named ? WhoIs(content.owner, content.started, content.renewed) : "somebody who is not named";
  if (named && Outranks(owner, content.owner)) return Refusal();
  if (lock == LockFile::Lock::kTaken) return Refusal{who, here};
  if (info.size == 0) return Refusal();
  // Without its lock an owner of this system is dead; one that never had it, when no process has its number.
  if (here && content.locked && lock == LockFile::Lock::kHeld) return Refusal();
  const bool unlocked = lock == LockFile::Lock::kNone || !content.locked;
  if (here && unlocked && owner.processes == content.owner.processes && !ProcessExists(content.owner.pid))
    return Refusal();
  MIMO_ASSIGN_OR_RETURN(const int64_t now, TimeOf(directory, name + kProbe + NewToken()));
  // A time to come was never the file system's: somebody's clock was wrong.
  const std::chrono::nanoseconds age(std::abs(now - info.mtime_ns));
  if (age > times.stale) return Refusal();
  return Refusal{who + " (" + Seconds(age) + " ago by the file system's clock)", false};
}

Error Lease::Held(FileSystem& directory, const std::string& name, const Refusal& refusal, const LeaseTimes& times) {
  return IoError("another run is writing here")
      .File(Shown(directory, name))
      .Found(refusal.who)
      .Advice(refusal.lives_here
                  ? "wait until it has ended, or stop it"
                  : "wait until it has ended; if it is dead, its lease is taken over " + Seconds(times.stale) +
                        " after it was last renewed, and at once on its own host");
}

Result<std::unique_ptr<Lease>> Lease::Take(FileSystem& directory, const std::string& name, const LeaseOwner& owner,
                                           const LeaseTimes& times, const std::atomic<int>* stop) {
  std::unique_ptr<Lease> lease(new Lease(directory, name, owner, times, stop));
  MIMO_RETURN_IF_ERROR(lease->Acquire());
  try {
    lease->thread_ = std::thread([&renewed = *lease] { renewed.RenewForEver(); });
  } catch (const std::exception&) {  // no more threads, or no memory for one: Check renews
  }
  return lease;
}

// Whoever looks at a lease has its lock for a moment: a lock that is taken is looked at again.
Status Lease::CheckFree(FileSystem& directory, const std::string& name, const LeaseOwner& owner,
                        const LeaseTimes& times) {
  const Clock::time_point until = Clock::now() + times.retry;
  while (true) {
    MIMO_ASSIGN_OR_RETURN(const auto there, directory.Stat(name));
    if (!there) return {};
    auto opened = directory.OpenLock(name, OpenMode::kExisting);
    if (!opened.ok()) {
      MIMO_ASSIGN_OR_RETURN(const auto still, directory.Stat(name));
      return still ? Status(opened.TakeError()) : Status();  // given back meanwhile
    }
    const std::unique_ptr<LockFile> file = std::move(opened.value());
    const LockFile::Lock lock = file->TryLock();
    MIMO_ASSIGN_OR_RETURN(const std::string text, file->Read());
    MIMO_ASSIGN_OR_RETURN(const FileInfo info, file->Info());
    MIMO_ASSIGN_OR_RETURN(const Refusal refusal, WhyNot(directory, name, Parse(text), lock, info, owner, times));
    if (refusal.who.empty()) return {};
    if (lock != LockFile::Lock::kTaken || Clock::now() >= until) return Held(directory, name, refusal, times);
    std::this_thread::sleep_for(kPoll);
  }
}

Status Lease::Acquire() {
  const Clock::time_point until = Clock::now() + times_.retry;
  while (true) {
    Refusal refusal;
    MIMO_ASSIGN_OR_RETURN(const bool taken, AcquireOnce(&refusal));
    if (taken) break;
    if (!refusal.who.empty() && Clock::now() >= until) return Held(directory_, name_, refusal, times_);
    if (stop_waiting_ != nullptr && stop_waiting_->load() != 0)
      return Interrupted("interrupted while another run has what this one waits for").File(Shown(directory_, name_));
    std::this_thread::sleep_for(std::clamp<milliseconds>(times_.retry / 100, kPoll, kLongPoll));
  }
  renewed_ = Clock::now();
  return {};
}

// False and a `refusal` of nobody: the file went away meanwhile.
Result<bool> Lease::AcquireOnce(Refusal* refusal) {
  const size_t slash = name_.rfind('/');
  const std::string folder = slash == std::string::npos ? "" : name_.substr(0, slash);
  MIMO_RETURN_IF_ERROR(directory_.CreateDirectories(folder));
  auto opened = directory_.OpenLock(name_, OpenMode::kKeep);
  if (!opened.ok()) {
    // Its folder goes with a lease that is given back, and comes with the next: what is there now may be another.
    MIMO_ASSIGN_OR_RETURN(const auto there, directory_.Stat(folder));
    if (!there) return false;
    opened = directory_.OpenLock(name_, OpenMode::kKeep);
    if (!opened.ok()) {
      MIMO_ASSIGN_OR_RETURN(const auto still, directory_.Stat(folder));
      if (still) return opened.TakeError();
      return false;
    }
  }
  file_ = std::move(opened.value());
  const LockFile::Lock lock = file_->TryLock();
  MIMO_ASSIGN_OR_RETURN(const FileInfo info, file_->Info());
  MIMO_ASSIGN_OR_RETURN(const auto named, directory_.Stat(name_));
  if (!named || named->inode != info.inode || named->device != info.device) return false;
  MIMO_ASSIGN_OR_RETURN(const std::string text, file_->Read());
  const Content content = Parse(text);
  MIMO_ASSIGN_OR_RETURN(*refusal, WhyNot(directory_, name_, content, lock, info, owner_, times_));
  if (!refusal->who.empty()) return false;
  locked_ = lock == LockFile::Lock::kHeld;
  if (Status written = file_->Write(Text()); !written.ok()) {
    // Half a lease names nobody: it would keep everybody out until it is stale.
    if (lock == LockFile::Lock::kHeld) static_cast<void>(directory_.Remove(name_));
    return written.TakeError();
  }
  if (lock == LockFile::Lock::kTaken) return Displace(refusal);
  if (lock == LockFile::Lock::kHeld) return true;
  // Without locks two may have come here at once: the last to write has it.
  std::this_thread::sleep_for(times_.settle);
  MIMO_ASSIGN_OR_RETURN(const Content now, ReadContent());
  if (now.token == token_) return true;
  refusal->who = WhoIs(now.owner, now.started, now.renewed);
  return false;
}

// An earlier start of this job still runs: it stops when it sees that the lease is this one's. Should it have no way to
// see that (its host is gone, and the lock with it is not), the lease is stale in the end.
Result<bool> Lease::Displace(Refusal* refusal) {
  const Clock::time_point until = Clock::now() + times_.stale;
  while (Clock::now() < until) {
    locked_ = file_->TryLock() == LockFile::Lock::kHeld;
    if (locked_) break;
    if (stop_waiting_ != nullptr && stop_waiting_->load() != 0)
      return Interrupted("interrupted while the job's earlier start lets go").File(Shown(directory_, name_));
    std::this_thread::sleep_for(kPoll);
    MIMO_ASSIGN_OR_RETURN(const std::string text, file_->Read());
    const Content now = Parse(text);
    if (now.token == token_) continue;
    if (!Outranks(owner_, now.owner)) {
      refusal->who = WhoIs(now.owner, now.started, now.renewed);
      return false;
    }
    MIMO_RETURN_IF_ERROR(file_->Write(Text()));
  }
  MIMO_RETURN_IF_ERROR(file_->Write(Text()));
  return true;
}

Lease::~Lease() {
  try {
    const Status ignored = Release();
  } catch (const std::bad_alloc&) {  // the file stays, and is stale once this process has ended
  }
}

Status Lease::Release() {
  if (thread_.joinable()) {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }
  if (file_ == nullptr) return {};
  const bool own = Check().ok();
  Status removed;
  if (own) {
    auto content = ReadContent();
    if (!content.ok())
      removed = content.error();
    else if (content->token == token_)
      removed = Remove();
  }
  file_.reset();
  return removed;
}

Status Lease::Remove() {
  MIMO_RETURN_IF_ERROR(directory_.Remove(name_));
  const size_t slash = name_.rfind('/');
  const std::string folder = slash == std::string::npos ? "" : name_.substr(0, slash);
  if (!folder.empty()) {
    MIMO_ASSIGN_OR_RETURN(const auto names, directory_.List(folder));
    // Somebody may take the lease again this moment, and need the folder.
    if (Status removed = names.empty() ? directory_.Remove(folder) : Status(); !removed.ok()) {
      MIMO_ASSIGN_OR_RETURN(const auto again, directory_.List(folder));
      if (again.empty()) return removed;
    }
  }
  return directory_.SyncDirectory("");
}

// By its name, so that a file system of the network asks its server.
Result<Lease::Content> Lease::ReadContent() {
  MIMO_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(directory_, name_, kMaxLeaseBytes));
  return Parse(text);
}

Status Lease::Check() {
  const milliseconds limit =
      thread_.joinable() ? std::min(times_.renew + times_.patience, times_.stale / 2) : times_.renew;
  if (!is_lost_ && Clock::now() - renewed_.load() > limit) {
    // Nobody renews: there is no thread, it hangs in the file system, or the process was stopped for a while.
    const std::unique_lock lock(mutex_, times_.renew);
    if (!lock.owns_lock())
      return IoError("the lease was not renewed for " + Seconds(Clock::now() - renewed_.load()))
          .File(name_)
          .Advice("the file system does not answer: run again with --resume when it does");
    if (!is_lost_) static_cast<void>(Renew());
  }
  if (!is_lost_) return {};
  const std::lock_guard lock(mutex_);
  return *lost_;
}

Status Lease::Confirm() {
  const std::lock_guard lock(mutex_);
  if (lost_) return *lost_;
  return Renew();
}

// With the lock held. What the file system says when it cannot be renewed now; it is lost after `patience`.
Status Lease::Renew() {
  Status renewed = TryRenew();
  if (renewed.ok()) {
    renewed_ = Clock::now();
  } else if (!is_lost_ && Clock::now() - renewed_.load() > times_.patience) {
    Error error = renewed.error();
    Lose(IoError("the lease cannot be renewed: " + error.what).File(error.file).Advice(error.advice));
  }
  return renewed;
}

Status Lease::TryRenew() {
  MIMO_ASSIGN_OR_RETURN(const auto named, directory_.Stat(name_));
  MIMO_ASSIGN_OR_RETURN(const FileInfo own, file_->Info());
  if (!named || named->inode != own.inode || named->device != own.device) {
    Lose(IoError(named ? "the lease was replaced" : "the lease has disappeared").File(Shown(directory_, name_)));
    return *lost_;
  }
  MIMO_ASSIGN_OR_RETURN(const Content content, ReadContent());
  if (content.token != token_ && !Outranks(owner_, content.owner)) {
    Lose(IoError("another run has taken over")
             .File(Shown(directory_, name_))
             .Found(WhoIs(content.owner, content.started, content.renewed)));
    return *lost_;
  }
  // It may have been taken without the lock, from somebody who has gone since.
  if (!locked_) locked_ = file_->TryLock() == LockFile::Lock::kHeld;
  return file_->Write(Text());
}

void Lease::Lose(Error error) {
  lost_ = std::move(error).Advice("this run has stopped writing; --resume goes on when nobody else writes");
  is_lost_ = true;
}

void Lease::RenewForEver() {
  std::unique_lock lock(mutex_);
  milliseconds pause = times_.renew;
  while (!wake_.wait_for(lock, pause, [this] { return stop_; })) {
    if (is_lost_) return;
    try {
      pause = Renew().ok() ? times_.renew : times_.renew / 10;
    } catch (const std::bad_alloc&) {
      pause = times_.renew / 10;
    }
  }
}

}  // namespace mimo
