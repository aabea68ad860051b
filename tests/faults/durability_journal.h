// What has been done to a file system since it was last synced, and how to undo it. Data of a file is durable when the
// file was synced after its last write; an entry of a directory (creation, rename, link, removal) when that directory
// was synced after it, a rename between two directories when both were.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/file_system.h"

namespace mimo {

// Not thread-safe: FaultyFileSystem holds its lock. The Will functions are called just before the base file system is
// asked, and return a token to pass to Happened when it agreed; without that, the record has no effect.
class DurabilityJournal {
 public:
  struct File {
    std::string path;    // where it is now; a name no file can have once it was removed
    bool dirty = false;  // has an entry in the journal
  };
  struct Record;

  explicit DurabilityJournal(FileSystem& base);
  ~DurabilityJournal();

  std::shared_ptr<File> FileAt(const std::string& path);

  // [offset, offset + bytes) of the file changes; `bytes` 0 for a change of length only.
  Status WillChange(const std::shared_ptr<File>& file, uint64_t offset, uint64_t bytes);
  void Synced(const File& file);
  void SyncedDirectory(const std::string& path);

  Result<std::shared_ptr<Record>> WillCreate(const std::string& path);
  Result<std::shared_ptr<Record>> WillRemove(const std::string& path);
  Result<std::shared_ptr<Record>> WillRename(const std::string& from, const std::string& to);
  void Happened(std::shared_ptr<Record> record);

  // Undoes what is not durable, the last thing first, and forgets everything.
  Status PowerLoss(bool entries_revert, bool data_zero);

 private:
  Status UndoData(const Record& record, bool data_zero);
  Status UndoEntry(const Record& record);
  void Relocate(const std::string& from, const std::string& to);

  FileSystem& base_;
  std::list<std::shared_ptr<Record>> records_;  // oldest first
  std::vector<std::shared_ptr<File>> files_;
  uint64_t tombstones_ = 0;
};

}  // namespace mimo
