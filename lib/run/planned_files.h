// The files of a plan, made in memory when somebody reads them: a directory that exists nowhere, and is opened, judged
// and compared as any other. Proves a conversion without writing it, and does in one go what takes two runs.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/model/catalogue.h"
#include "lib/plan/plan.h"

namespace mimo {

class StepsOfGroups;

// Read-only; everything that would change something is kIo. Paths are JoinPath(root, name). Reads are served from steps
// of the plan, which are kept while memory lasts: read in the order of fuse groups. What was odd about values that were
// made is counted, and refused nowhere.
class PlannedFiles final : public FileSystem {
 public:
  // All outlive it; `root` names a directory that is not in `fs`. `memory_bytes` bounds the steps that are kept; one
  // that is being made may exceed it.
  PlannedFiles(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, std::string root, uint64_t memory_bytes);
  // Opens the tensor file of that number, as a run has written it.
  using OpenWritten = std::function<Result<std::unique_ptr<ReadableFile>>(uint32_t file)>;
  // The directory that a run will publish: nothing is made, tensor files are those that `written` opens.
  PlannedFiles(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, std::string root, OpenWritten written);
  ~PlannedFiles() override;

  Result<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) override;
  Result<std::optional<FileInfo>> Stat(const std::string& path) override;
  Result<std::vector<std::string>> List(const std::string& directory) override;
  Result<std::string> RealPath(const std::string& path) override;
  Result<std::optional<std::string>> ReadLink(const std::string& path) override;

  Result<std::unique_ptr<WritableFile>> OpenForWrite(const std::string& path, OpenMode mode) override;
  Status CreateDirectories(const std::string& path) override;
  Status Rename(const std::string& from, const std::string& to) override;
  Status Remove(const std::string& path) override;
  Status RemoveAll(const std::string& path) override;
  Status RemoveDirectory(const std::string& path) override;
  Status HardLink(const std::string& target, const std::string& link) override;
  Status SymLink(const std::string& target, const std::string& link) override;
  Status RefLink(const std::string& target, const std::string& link) override;
  Status SyncDirectory(const std::string& path) override;
  Result<uint64_t> FreeBytes(const std::string& path) override;
  Result<std::unique_ptr<LockFile>> OpenLock(const std::string& path, OpenMode mode) override;
  Result<std::unique_ptr<FileSystem>> Beneath(const std::string& root) override;

  // What was odd about values that were made so far.
  kernels::Anomalies anomalies() const;

 private:
  struct Entry {
    enum class Kind : uint8_t { kTensors, kText, kCarried } kind = Kind::kText;
    uint32_t index = 0;  // into Plan::files or Plan::texts
    uint64_t bytes = 0;
    std::string carried = {};  // its path in `fs`
  };

  const Entry* Find(const std::string& path, std::string* name) const;
  Result<std::unique_ptr<ReadableFile>> OpenTensors(uint32_t file, const FileInfo& info);

  FileSystem& fs_;
  const Catalogue& catalogue_;
  const Plan& plan_;
  const std::string root_;
  const OpenWritten written_;             // none: they are made
  std::map<std::string, Entry> entries_;  // by name
  std::set<std::string> directories_;     // names that begin others; "" is the root
  std::unique_ptr<StepsOfGroups> steps_;
};

}  // namespace mimo
