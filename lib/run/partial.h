// OUT/.mimo-partial: an output that is not complete yet (docs/formats.md).
//   state.json         whose it is; written before anything else
//   files/NAME         the output's files, at their final length from the start
//   records/NNNN.json  one per complete file group, written after its files are synced
//   publish.json       everything is complete: what is left is to move files/ into OUT
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/model/file_names.h"
#include "lib/plan/plan.h"
#include "lib/results/manifest.h"

namespace mimo {

// Creates the directories above `name` below `root`.
Status CreateParents(FileSystem& fs, const std::string& root, const std::string& name);
// Syncs `root` and every directory below it that is above one of `names`, the deepest first. Directories that do not
// exist are passed over: a run was stopped while it removed the partial directory.
Status SyncDirectories(FileSystem& fs, const std::string& root, const std::vector<std::string>& names);

class PartialDirectory {
 public:
  PartialDirectory(FileSystem& fs, const std::string& output);

  const std::string& path() const { return path_; }
  std::string files() const { return JoinPath(path_, "files"); }
  std::string FilePath(const std::string& name) const { return JoinPath(files(), name); }

  // ---- state.json
  struct State {
    Hash128 plan_digest;
    std::string tool_version;
    bool created_output = false;  // OUT did not exist before
    bool overwrite = false;       // what OUT held is replaced at publication
  };
  // nullopt when there is none that can be read.
  Result<std::optional<State>> ReadState() const;
  // Empties the directory, or makes it, and writes the state. publish.json goes first, so that what is half removed is
  // never published.
  Status Start(const Plan& plan, const State& state);

  // ---- records
  // What a record must hold to be of use to this run.
  struct RecordNeeds {
    bool hash_linked = false;  // a hash for every tensor
    bool errors = false;       // of every encoded weight
  };
  // Results of the outputs and groups of `file_group`, taken into `results`; false when there is no valid record of
  // this plan, a file is missing or has another length, it lacks what is needed, or `linked` (per plan file) does not
  // match.
  Result<bool> LoadRecord(const Plan& plan, uint32_t file_group, const RecordNeeds& needs, RunResults* results) const;
  Status WriteRecord(const Plan& plan, uint32_t file_group, const RunResults& results);
  // Removes all records but those of `kept`, durably: before their files are touched, lest they vouch for what comes
  // after.
  Status DropRecords(const std::vector<uint32_t>& kept);

  // ---- publish.json
  struct Publication {
    Hash128 plan_digest;
    bool overwrite = false;
    bool cleared = false;            // what OUT held before is gone
    std::vector<std::string> names;  // in the order of moving, the manifest last
  };
  Result<std::optional<Publication>> ReadPublication() const;
  Status WritePublication(const Publication& publication);

  // Removes everything; publish.json last, so that an interrupted removal is finished by the next --resume.
  Status Remove();

 private:
  std::string RecordName(uint32_t file_group) const;

  FileSystem& fs_;
  const std::string output_;
  const std::string path_;
};

}  // namespace mimo
