// The file system as an interface, so that faults can be injected (tests/faults) and nothing else in the library calls
// the operating system for files. All functions may be called from several threads at once. Errors are kIo (missing
// file, permission, no space, EIO) unless a line says otherwise, and name the path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/status.h"

namespace mimo {

enum class FileKind : uint8_t { kRegular, kDirectory, kOther };

struct FileInfo {
  FileKind kind = FileKind::kOther;  // of the target, when the path is a symbolic link
  bool symlink = false;              // the path itself is a symbolic link
  uint32_t mode = 0;                 // permission bits, setuid, setgid and sticky among them; of the target
  uint64_t size = 0;                 // bytes
  uint64_t allocated = 0;            // bytes that the file system holds for its data; 0 where it does not tell
  int64_t mtime_ns = 0;
  int64_t ctime_ns = 0;  // of the last change of its data, its attributes or its names
  int64_t birth_ns = 0;  // when it was made; 0 where the file system does not tell
  uint64_t device = 0;
  uint64_t inode = 0;
};

// What changes when somebody writes to a file or puts another in its place.
struct FileStamp {
  int64_t mtime_ns = 0;
  uint64_t inode = 0;  // 0: nobody has looked
  bool operator==(const FileStamp&) const = default;
};
inline FileStamp StampOf(const FileInfo& info) {
  return {info.mtime_ns, info.inode};
}

// How requests past the page cache are made: several of a thread at a time where the system can (io_uring), or one by
// one.
enum class DirectMode : uint8_t { kQueued, kSingle };
class DirectFile;

// Positional reads; const and safe to share between threads.
class ReadableFile {
 public:
  virtual ~ReadableFile() = default;
  // Fills `out` from `offset`. Short reads are continued; end of file before `out` is full is kBadInput ("truncated").
  virtual Status ReadAt(uint64_t offset, std::span<std::byte> out) const = 0;
  virtual uint64_t size() const = 0;
  // Has ReadAll (transfers.h) read past the page cache from now on. kIo where that cannot be: all stays as it was.
  // Before others share the file.
  virtual Status UseDirect(DirectMode mode);
  // What ReadAll then reads by; null otherwise.
  virtual const DirectFile* direct() const { return nullptr; }
  // Of the open file, now; of what is no file of a file system, its size alone.
  virtual Result<FileInfo> Info() const {
    FileInfo info;
    info.size = size();
    return info;
  }
};

// Positional writes; distinct ranges may be written from several threads at once.
class WritableFile {
 public:
  virtual ~WritableFile() = default;
  virtual Status WriteAt(uint64_t offset, std::span<const std::byte> data) = 0;
  virtual Status Truncate(uint64_t size) = 0;  // sets the length; new bytes are zeros (a hole where supported)
  // Has WriteAll (transfers.h) write past the page cache from now on, whole blocks that nobody else writes to. kIo
  // where that cannot be: all stays as it was. Before others share the file.
  virtual Status UseDirect(DirectMode mode);
  // What WriteAll then writes by; null otherwise.
  virtual const DirectFile* direct() const { return nullptr; }
  // Asks for the blocks of its length (fallocate); a file system that cannot is none the worse. kIo: no space.
  virtual Status Allocate() { return {}; }
  // Lets what was written in this range go to the disk, without waiting for it.
  virtual void StartWriting(uint64_t /*offset*/, uint64_t /*bytes*/) {}
  virtual Status SetMode(uint32_t mode) = 0;  // permission bits, as they are: the umask has no say
  virtual Status Sync() = 0;                  // data and length reach stable storage
  virtual Result<FileInfo> Info() const = 0;  // of the open file, whatever its name has become
  virtual Status Close() = 0;                 // idempotent; the destructor closes without reporting
};

enum class OpenMode : uint8_t {
  kCreateNew /* error if it exists */,
  kTruncate,
  kKeep /* create if missing, keep content */,
  kExisting /* error if it is missing, keep content */
};

// A small file that says who uses something, open until the object goes; with it goes the lock.
class LockFile {
 public:
  enum class Lock : uint8_t {
    kHeld,   // nobody else on this system, or on any that shares the file system's locks, has the file open so
    kTaken,  // somebody else holds it
    kNone,   // the file system has no locks
  };
  virtual ~LockFile() = default;
  // Asks for the advisory lock (flock) if it is not held yet; never waits.
  virtual Lock TryLock() = 0;
  virtual Result<std::string> Read() const = 0;  // what it holds, up to 64 KiB
  // Replaces what it holds, in place and through to stable storage (or the server of the file system).
  virtual Status Write(std::string_view content) = 0;
  virtual Result<FileInfo> Info() const = 0;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;
  virtual Result<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) = 0;
  virtual Result<std::unique_ptr<WritableFile>> OpenForWrite(const std::string& path, OpenMode mode) = 0;
  // Opens a file by its RealPath. Where the system can tell, a symbolic link that has taken the place of any part of it
  // since is an error and not followed. Others open it as they open any.
  virtual Result<std::unique_ptr<ReadableFile>> OpenResolved(const std::string& real_path) {
    return OpenForRead(real_path);
  }
  // nullopt when nothing is there (a symbolic link that dangles, or leads in a circle, included).
  virtual Result<std::optional<FileInfo>> Stat(const std::string& path) = 0;
  // Names (not paths) in a directory, without "." and "..", sorted bytewise.
  virtual Result<std::vector<std::string>> List(const std::string& directory) = 0;
  virtual Status CreateDirectories(const std::string& path) = 0;
  virtual Status Rename(const std::string& from, const std::string& to) = 0;  // replaces `to` atomically
  virtual Status Remove(const std::string& path) = 0;                         // file or empty directory; missing is ok
  virtual Status RemoveAll(const std::string& path) = 0;                      // never follows symbolic links
  virtual Status RemoveDirectory(const std::string& path) = 0;                // an empty one, and nothing else
  virtual Status HardLink(const std::string& target, const std::string& link) = 0;
  virtual Status SymLink(const std::string& target, const std::string& link) = 0;
  virtual Status RefLink(const std::string& target, const std::string& link) = 0;  // FICLONE; kIo when unsupported
  virtual Status SyncDirectory(const std::string& path) = 0;
  virtual Result<std::string> RealPath(const std::string& path) = 0;  // of an existing path
  virtual Result<uint64_t> FreeBytes(const std::string& path) = 0;    // available to this user
  // What kind of file system holds `path`, in the words of mount(8) ("ext4", "nfs", "lustre"); "" where that is not
  // known.
  virtual Result<std::string> KindOf(const std::string& /*path*/) { return std::string(); }
  // Whether this user may make files in a directory, as far as its permissions tell.
  virtual bool MayWrite(const std::string& /*directory*/) { return true; }
  // What a symbolic link says, as it stands there; nullopt where `path` is none, or nothing.
  virtual Result<std::optional<std::string>> ReadLink(const std::string& path) = 0;
  // Opens a regular file for locking; kKeep makes it when there is none, kExisting does not. Never follows a link.
  virtual Result<std::unique_ptr<LockFile>> OpenLock(const std::string& path, OpenMode mode) = 0;
  // The same file system as seen from the directory `root`, which is held open: whatever is done to its path meanwhile,
  // names lead into this directory. Paths are names relative to it ("" is itself), without "." and "..". No symbolic
  // link is followed in them, nor at their end: Stat tells of the link itself (kOther), and what would go through one
  // is kIo. The targets of HardLink, SymLink and RefLink stay ordinary paths. Messages name whole paths.
  virtual Result<std::unique_ptr<FileSystem>> Beneath(const std::string& root) = 0;
};

// The operating system's. Process-wide, never destroyed.
FileSystem& PosixFileSystem();

// Whole small files (config, index). kBadInput when larger than `limit` bytes.
Result<std::string> ReadWholeFile(FileSystem& fs, const std::string& path, uint64_t limit);

std::string JoinPath(const std::string& directory, const std::string& name);
// The directory that holds `path`; "." for a bare name.
std::string ParentOf(const std::string& path);

}  // namespace mimo
