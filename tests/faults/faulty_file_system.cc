#include "tests/faults/faulty_file_system.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <utility>

#include "lib/base/os_error.h"
#include "tests/faults/durability_journal.h"

namespace mimo {

struct FaultyFileSystem::State {
  explicit State(FileSystem& base_fs) : base(base_fs), journal(base_fs) {}

  // Counts, logs, and says whether the call fails. Under the lock.
  Status Count(LogEntry entry) {
    const auto kind = static_cast<size_t>(entry.operation);
    ++calls;
    ++calls_of[kind];
    const bool counted = !fault.only || *fault.only == entry.operation;
    const uint64_t number = fault.only ? calls_of[kind] : calls;
    entry.failed = counted && fault.at != 0 && (number == fault.at || (fault.from_then_on && number > fault.at));
    log.push_back(entry);
    if (!entry.failed) return {};
    return OsError("cannot go on (injected fault)", entry.path, fault.error_number);
  }

  // A file opened before a power failure is not there any more.
  Status CheckGeneration(uint64_t opened_in, const std::string& path) const {
    if (opened_in == generation) return {};
    return OsError("file was open during a power failure", path, EIO);
  }

  FileSystem& base;
  mutable std::mutex mutex;
  Fault fault;
  uint64_t calls = 0;
  std::array<uint64_t, kOperations> calls_of = {};
  std::vector<LogEntry> log;
  DurabilityJournal journal;
  uint64_t generation = 0;
};

namespace {

using State = FaultyFileSystem::State;

LogEntry Call(Operation operation, const std::string& path, const std::string& other = {}) {
  return {.operation = operation, .path = path, .other = other};
}

class FaultyReadableFile final : public ReadableFile {
 public:
  FaultyReadableFile(std::shared_ptr<State> state, std::string path, std::unique_ptr<ReadableFile> base)
      : state_(std::move(state)), path_(std::move(path)), base_(std::move(base)) {}

  Status ReadAt(uint64_t offset, std::span<std::byte> out) const override {
    {
      const std::lock_guard lock(state_->mutex);
      LogEntry call = Call(Operation::kRead, path_);
      call.offset = offset;
      call.bytes = out.size();
      MIMO_RETURN_IF_ERROR(state_->Count(std::move(call)));
    }
    return base_->ReadAt(offset, out);
  }

  uint64_t size() const override { return base_->size(); }
  Result<FileInfo> Info() const override { return base_->Info(); }

 private:
  const std::shared_ptr<State> state_;
  const std::string path_;
  const std::unique_ptr<ReadableFile> base_;
};

class FaultyWritableFile final : public WritableFile {
 public:
  // Under the lock.
  FaultyWritableFile(std::shared_ptr<State> state, std::string path, std::shared_ptr<DurabilityJournal::File> file,
                     std::unique_ptr<WritableFile> base)
      : state_(std::move(state)),
        path_(std::move(path)),
        file_(std::move(file)),
        base_(std::move(base)),
        generation_(state_->generation) {}

  Status WriteAt(uint64_t offset, std::span<const std::byte> data) override {
    const std::lock_guard lock(state_->mutex);
    LogEntry call = Call(Operation::kWrite, path_);
    call.offset = offset;
    call.bytes = data.size();
    Status injected = state_->Count(std::move(call));
    if (!injected.ok()) data = data.first(std::min<uint64_t>(state_->fault.bytes_written_first, data.size()));
    MIMO_RETURN_IF_ERROR(state_->CheckGeneration(generation_, path_));
    if (!data.empty()) {
      MIMO_RETURN_IF_ERROR(state_->journal.WillChange(file_, offset, data.size()));
      MIMO_RETURN_IF_ERROR(base_->WriteAt(offset, data));
    }
    return injected;
  }

  Status Truncate(uint64_t size) override {
    const std::lock_guard lock(state_->mutex);
    LogEntry call = Call(Operation::kTruncate, path_);
    call.bytes = size;
    MIMO_RETURN_IF_ERROR(state_->Count(std::move(call)));
    MIMO_RETURN_IF_ERROR(state_->CheckGeneration(generation_, path_));
    MIMO_RETURN_IF_ERROR(state_->journal.WillChange(file_, 0, 0));
    return base_->Truncate(size);
  }

  // Counted as a change of length is: neither touches data.
  Status SetMode(uint32_t mode) override {
    const std::lock_guard lock(state_->mutex);
    MIMO_RETURN_IF_ERROR(state_->Count(Call(Operation::kTruncate, path_)));
    MIMO_RETURN_IF_ERROR(state_->CheckGeneration(generation_, path_));
    return base_->SetMode(mode);
  }

  Status Sync() override {
    const std::lock_guard lock(state_->mutex);
    MIMO_RETURN_IF_ERROR(state_->Count(Call(Operation::kSync, path_)));
    MIMO_RETURN_IF_ERROR(state_->CheckGeneration(generation_, path_));
    // The base is not synced: only the journal knows what is durable, and tests are faster so.
    state_->journal.Synced(*file_);
    return {};
  }

  Result<FileInfo> Info() const override { return base_->Info(); }

  Status Close() override {
    const std::lock_guard lock(state_->mutex);
    if (closed_) return {};
    closed_ = true;
    Status injected = state_->Count(Call(Operation::kClose, path_));
    MIMO_RETURN_IF_ERROR(base_->Close());  // a close that reports an error closes all the same
    return injected;
  }

 private:
  const std::shared_ptr<State> state_;
  const std::string path_;
  const std::shared_ptr<DurabilityJournal::File> file_;
  const std::unique_ptr<WritableFile> base_;
  const uint64_t generation_;
  bool closed_ = false;
};

class FaultyLockFile final : public LockFile {
 public:
  FaultyLockFile(std::shared_ptr<State> state, std::string path, std::unique_ptr<LockFile> base)
      : state_(std::move(state)), path_(std::move(path)), base_(std::move(base)) {}

  Lock TryLock() override { return base_->TryLock(); }

  Result<std::string> Read() const override {
    const std::lock_guard lock(state_->mutex);
    MIMO_RETURN_IF_ERROR(state_->Count(Call(Operation::kStat, path_)));
    return base_->Read();
  }

  // What a lock file says need not survive a power failure: nothing is journaled.
  Status Write(std::string_view content) override {
    const std::lock_guard lock(state_->mutex);
    MIMO_RETURN_IF_ERROR(state_->Count(Call(Operation::kWrite, path_)));
    return base_->Write(content);
  }

  Result<FileInfo> Info() const override { return base_->Info(); }

 private:
  const std::shared_ptr<State> state_;
  const std::string path_;
  const std::unique_ptr<LockFile> base_;
};

}  // namespace

FaultyFileSystem::FaultyFileSystem(FileSystem& base) : state_(std::make_shared<State>(base)), base_(&base) {}
FaultyFileSystem::FaultyFileSystem(std::shared_ptr<State> state, std::unique_ptr<FileSystem> base, std::string root)
    : state_(std::move(state)), owned_(std::move(base)), base_(owned_.get()), root_(std::move(root)) {}
FaultyFileSystem::~FaultyFileSystem() = default;

void FaultyFileSystem::SetFault(const Fault& fault) {
  const std::lock_guard lock(state_->mutex);
  state_->fault = fault;
  state_->calls = 0;
  state_->calls_of = {};
}

uint64_t FaultyFileSystem::Calls() const {
  const std::lock_guard lock(state_->mutex);
  return state_->calls;
}

uint64_t FaultyFileSystem::Calls(Operation operation) const {
  const std::lock_guard lock(state_->mutex);
  return state_->calls_of[static_cast<size_t>(operation)];
}

std::vector<LogEntry> FaultyFileSystem::Log() const {
  const std::lock_guard lock(state_->mutex);
  return state_->log;
}

void FaultyFileSystem::ClearLog() {
  const std::lock_guard lock(state_->mutex);
  state_->log.clear();
}

std::vector<std::string> FaultyFileSystem::LoggedPaths(Operation operation) const {
  std::vector<std::string> paths;
  for (const LogEntry& entry : Log()) {
    if (entry.operation == operation) paths.push_back(entry.path);
  }
  std::sort(paths.begin(), paths.end());
  paths.erase(std::unique(paths.begin(), paths.end()), paths.end());
  return paths;
}

Status FaultyFileSystem::DropUnsynced(const PowerLoss& loss) {
  const std::lock_guard lock(state_->mutex);
  ++state_->generation;
  return state_->journal.PowerLoss(loss.entries_revert, loss.data_zero);
}

Result<std::unique_ptr<ReadableFile>> FaultyFileSystem::OpenForRead(const std::string& path) {
  const std::lock_guard lock(state_->mutex);
  MIMO_RETURN_IF_ERROR(state_->Count(Call(Operation::kOpenRead, Full(path))));
  MIMO_ASSIGN_OR_RETURN(auto file, base_->OpenForRead(path));
  return std::unique_ptr<ReadableFile>(std::make_unique<FaultyReadableFile>(state_, Full(path), std::move(file)));
}

Result<std::unique_ptr<WritableFile>> FaultyFileSystem::OpenForWrite(const std::string& path, OpenMode mode) {
  const std::lock_guard lock(state_->mutex);
  MIMO_RETURN_IF_ERROR(state_->Count(Call(Operation::kOpenWrite, Full(path))));
  MIMO_ASSIGN_OR_RETURN(const auto info, base_->Stat(path));
  if (info && info->kind == FileKind::kRegular && mode == OpenMode::kTruncate) {
    // Emptied by a change of length that the journal can see, not by the opening.
    MIMO_RETURN_IF_ERROR(state_->journal.WillChange(state_->journal.FileAt(Full(path)), 0, 0));
  }
  MIMO_ASSIGN_OR_RETURN(auto file, base_->OpenForWrite(path, mode));
  if (!info) {
    MIMO_ASSIGN_OR_RETURN(auto record, state_->journal.WillCreate(Full(path)));
    state_->journal.Happened(std::move(record));
  }
  auto journaled = state_->journal.FileAt(Full(path));
  return std::unique_ptr<WritableFile>(
      std::make_unique<FaultyWritableFile>(state_, Full(path), std::move(journaled), std::move(file)));
}

Result<std::optional<FileInfo>> FaultyFileSystem::Stat(const std::string& path) {
  const std::lock_guard lock(state_->mutex);
  MIMO_RETURN_IF_ERROR(state_->Count(Call(Operation::kStat, Full(path))));
  return base_->Stat(path);
}

Result<std::vector<std::string>> FaultyFileSystem::List(const std::string& directory) {
  const std::lock_guard lock(state_->mutex);
  MIMO_RETURN_IF_ERROR(state_->Count(Call(Operation::kList, Full(directory))));
  return base_->List(directory);
}

Status FaultyFileSystem::CreateDirectories(const std::string& path) {
  const std::lock_guard lock(state_->mutex);
  MIMO_RETURN_IF_ERROR(state_->Count(Call(Operation::kMakeDirectory, Full(path))));
  for (size_t end = 0; end != std::string::npos;) {
    end = path.find('/', end + 1);
    const std::string prefix = path.substr(0, end);
    MIMO_ASSIGN_OR_RETURN(const auto info, base_->Stat(prefix));
    if (info && info->kind == FileKind::kDirectory) continue;
    MIMO_ASSIGN_OR_RETURN(auto record, state_->journal.WillCreate(Full(prefix)));
    MIMO_RETURN_IF_ERROR(base_->CreateDirectories(prefix));
    state_->journal.Happened(std::move(record));
  }
  return {};
}

Status FaultyFileSystem::Rename(const std::string& from, const std::string& to) {
  const std::lock_guard lock(state_->mutex);
  MIMO_RETURN_IF_ERROR(state_->Count(Call(Operation::kRename, Full(from), Full(to))));
  MIMO_ASSIGN_OR_RETURN(auto record, state_->journal.WillRename(Full(from), Full(to)));
  MIMO_RETURN_IF_ERROR(base_->Rename(from, to));
  state_->journal.Happened(std::move(record));
  return {};
}

Status FaultyFileSystem::Remove(const std::string& path) {
  const std::lock_guard lock(state_->mutex);
  MIMO_RETURN_IF_ERROR(state_->Count(Call(Operation::kRemove, Full(path))));
  MIMO_ASSIGN_OR_RETURN(auto record, state_->journal.WillRemove(Full(path)));
  MIMO_RETURN_IF_ERROR(base_->Remove(path));
  state_->journal.Happened(std::move(record));
  return {};
}

Status FaultyFileSystem::RemoveAll(const std::string& path) {
  std::vector<std::string> names;
  {
    const std::lock_guard lock(state_->mutex);
    MIMO_ASSIGN_OR_RETURN(const auto info, base_->Stat(path));
    if (info && info->kind == FileKind::kDirectory && !info->symlink) {
      MIMO_ASSIGN_OR_RETURN(names, base_->List(path));
    }
  }
  for (const std::string& name : names) MIMO_RETURN_IF_ERROR(RemoveAll(JoinPath(path, name)));
  return Remove(path);
}

Status FaultyFileSystem::HardLink(const std::string& target, const std::string& link) {
  const std::lock_guard lock(state_->mutex);
  MIMO_RETURN_IF_ERROR(state_->Count(Call(Operation::kLink, target, Full(link))));
  MIMO_ASSIGN_OR_RETURN(auto record, state_->journal.WillCreate(Full(link)));
  MIMO_RETURN_IF_ERROR(base_->HardLink(target, link));
  state_->journal.Happened(std::move(record));
  return {};
}

Status FaultyFileSystem::SymLink(const std::string& target, const std::string& link) {
  const std::lock_guard lock(state_->mutex);
  MIMO_RETURN_IF_ERROR(state_->Count(Call(Operation::kLink, target, Full(link))));
  MIMO_ASSIGN_OR_RETURN(auto record, state_->journal.WillCreate(Full(link)));
  MIMO_RETURN_IF_ERROR(base_->SymLink(target, link));
  state_->journal.Happened(std::move(record));
  return {};
}

Status FaultyFileSystem::RefLink(const std::string& target, const std::string& link) {
  const std::lock_guard lock(state_->mutex);
  MIMO_RETURN_IF_ERROR(state_->Count(Call(Operation::kLink, target, Full(link))));
  MIMO_ASSIGN_OR_RETURN(auto record, state_->journal.WillCreate(Full(link)));
  MIMO_RETURN_IF_ERROR(base_->RefLink(target, link));
  state_->journal.Happened(std::move(record));
  return {};
}

Status FaultyFileSystem::SyncDirectory(const std::string& path) {
  const std::lock_guard lock(state_->mutex);
  MIMO_RETURN_IF_ERROR(state_->Count(Call(Operation::kSyncDirectory, Full(path))));
  MIMO_ASSIGN_OR_RETURN(const auto info, base_->Stat(path));
  if (!info) return OsError("cannot sync the directory", Full(path), ENOENT);
  if (info->kind != FileKind::kDirectory) return OsError("cannot sync the directory", Full(path), ENOTDIR);
  state_->journal.SyncedDirectory(Full(path));
  return {};
}

Result<std::string> FaultyFileSystem::RealPath(const std::string& path) {
  const std::lock_guard lock(state_->mutex);
  MIMO_RETURN_IF_ERROR(state_->Count(Call(Operation::kStat, Full(path))));
  return base_->RealPath(path);
}

Result<std::optional<std::string>> FaultyFileSystem::ReadLink(const std::string& path) {
  const std::lock_guard lock(state_->mutex);
  MIMO_RETURN_IF_ERROR(state_->Count(Call(Operation::kStat, Full(path))));
  return base_->ReadLink(path);
}

Result<uint64_t> FaultyFileSystem::FreeBytes(const std::string& path) {
  const std::lock_guard lock(state_->mutex);
  MIMO_RETURN_IF_ERROR(state_->Count(Call(Operation::kStat, Full(path))));
  return base_->FreeBytes(path);
}

Status FaultyFileSystem::RemoveDirectory(const std::string& path) {
  const std::lock_guard lock(state_->mutex);
  MIMO_RETURN_IF_ERROR(state_->Count(Call(Operation::kRemove, Full(path))));
  MIMO_ASSIGN_OR_RETURN(auto record, state_->journal.WillRemove(Full(path)));
  MIMO_RETURN_IF_ERROR(base_->RemoveDirectory(path));
  state_->journal.Happened(std::move(record));
  return {};
}

Result<std::unique_ptr<LockFile>> FaultyFileSystem::OpenLock(const std::string& path, OpenMode mode) {
  const std::lock_guard lock(state_->mutex);
  MIMO_RETURN_IF_ERROR(state_->Count(Call(Operation::kOpenWrite, Full(path))));
  MIMO_ASSIGN_OR_RETURN(const auto info, base_->Stat(path));
  MIMO_ASSIGN_OR_RETURN(auto file, base_->OpenLock(path, mode));
  if (!info) {
    MIMO_ASSIGN_OR_RETURN(auto record, state_->journal.WillCreate(Full(path)));
    state_->journal.Happened(std::move(record));
  }
  return std::unique_ptr<LockFile>(std::make_unique<FaultyLockFile>(state_, Full(path), std::move(file)));
}

Result<std::unique_ptr<FileSystem>> FaultyFileSystem::Beneath(const std::string& root) {
  const std::lock_guard lock(state_->mutex);
  MIMO_RETURN_IF_ERROR(state_->Count(Call(Operation::kStat, Full(root))));
  MIMO_ASSIGN_OR_RETURN(auto base, base_->Beneath(root));
  return std::unique_ptr<FileSystem>(new FaultyFileSystem(state_, std::move(base), Full(root)));
}

}  // namespace mimo
