// A file system that wraps another one, counts every call, fails the n-th on request, logs what was touched, and can
// lose everything that was not synced, as a power failure would.
#pragma once

#include <cerrno>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/file_system.h"

namespace mimo {

enum class Operation : uint8_t {
  kOpenRead,
  kRead,
  kOpenWrite,
  kWrite,
  kTruncate,
  kSync,
  kClose,
  kRename,
  kRemove,         // RemoveAll counts once per file and directory removed, as the system is called
  kMakeDirectory,  // CreateDirectories counts once per call
  kLink,           // hard, symbolic and cloned
  kList,
  kStat,  // Stat, RealPath, ReadLink, FreeBytes
  kSyncDirectory,
};
inline constexpr size_t kOperations = static_cast<size_t>(Operation::kSyncDirectory) + 1;

// Which call fails, and how. The failing call has no effect, except for a write that gets part of the way.
struct Fault {
  uint64_t at = 0;                               // number of the call, from 1; 0: none fails
  std::optional<Operation> only = std::nullopt;  // count calls of this kind only
  int error_number = EIO;                        // or ENOSPC, ...; reported as kIo
  bool from_then_on = false;         // every later call (of this kind) fails too: the disk is gone, the process is dead
  uint64_t bytes_written_first = 0;  // by a write that fails; at most its own size
};

// What a power failure does to what was not synced. Synced data and entries always survive. The worst cases differ from
// one file system to the next, so a test of crash safety tries all four.
struct PowerLoss {
  bool entries_revert = true;  // creations, renames, links and removals are undone; else they all reached the disk
  bool data_zero = false;      // file data: zeros at the present length; else back to the content last synced
};

struct LogEntry {
  Operation operation;
  std::string path;     // of the file; the first argument of two
  std::string other;    // the second argument of renames and links
  uint64_t offset = 0;  // reads and writes
  uint64_t bytes = 0;   // reads and writes: size asked for; truncate: new length
  bool failed = false;  // by an injected fault
};

// Safe to call from several threads. Files that it opened may outlive it. `base` must outlive both.
// Durability is tracked by path: a file written under two hard links at once counts as two.
class FaultyFileSystem final : public FileSystem {
 public:
  explicit FaultyFileSystem(FileSystem& base);
  ~FaultyFileSystem() override;

  // Arms `fault` and starts counting from zero. SetFault({}) disarms.
  void SetFault(const Fault& fault);
  uint64_t Calls() const;  // since the last SetFault
  uint64_t Calls(Operation operation) const;

  std::vector<LogEntry> Log() const;
  void ClearLog();
  std::vector<std::string> LoggedPaths(Operation operation) const;  // distinct, sorted

  // Puts the base file system into a state that a power failure now could leave. Files still open fail from here on.
  Status DropUnsynced(const PowerLoss& loss = {});

  Result<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) override;
  Result<std::unique_ptr<WritableFile>> OpenForWrite(const std::string& path, OpenMode mode) override;
  Result<std::optional<FileInfo>> Stat(const std::string& path) override;
  Result<std::vector<std::string>> List(const std::string& directory) override;
  Status CreateDirectories(const std::string& path) override;
  Status Rename(const std::string& from, const std::string& to) override;
  Status Remove(const std::string& path) override;
  Status RemoveAll(const std::string& path) override;
  Status HardLink(const std::string& target, const std::string& link) override;
  Status SymLink(const std::string& target, const std::string& link) override;
  Status RefLink(const std::string& target, const std::string& link) override;
  Status SyncDirectory(const std::string& path) override;
  Result<std::string> RealPath(const std::string& path) override;
  Result<std::optional<std::string>> ReadLink(const std::string& path) override;
  Result<uint64_t> FreeBytes(const std::string& path) override;
  Status RemoveDirectory(const std::string& path) override;
  Result<std::unique_ptr<LockFile>> OpenLock(const std::string& path, OpenMode mode) override;
  // Its calls count as those of the whole.
  Result<std::unique_ptr<FileSystem>> Beneath(const std::string& root) override;

  struct State;  // for the implementation

 private:
  FaultyFileSystem(std::shared_ptr<State> state, std::unique_ptr<FileSystem> base, std::string root);
  std::string Full(const std::string& path) const { return JoinPath(root_, path); }

  std::shared_ptr<State> state_;
  std::unique_ptr<FileSystem> owned_;
  FileSystem* base_;
  std::string root_;  // of what lies beneath one
};

}  // namespace mimo
