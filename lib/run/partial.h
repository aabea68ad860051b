// OUT/.mimo-partial: an output that is not complete yet (docs/formats.md).
//   lease.json         who writes here (lib/owner/lease.h); or, of a run in parts:
//   parts/I-of-N.json  which of them do
//   start.json         which of them makes the files
//   state.json         whose it is; written before anything else
//   files/NAME         the output's files, at their final length from the start
//   units/NNNNNN.json  one per complete unit of a file group that has several (unit_records.h)
//   records/NNNN.json  one per complete file group, written after its files are synced
//   publish.json       everything is complete: what is left is to move files/ into OUT
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/model/file_names.h"
#include "lib/plan/plan.h"
#include "lib/results/manifest.h"
#include "lib/run/claim.h"
#include "lib/run/record_json.h"
#include "lib/run/sources.h"
#include "lib/run/written_file.h"

namespace mimo {

inline constexpr char kUnitsDirectory[] = "units";
inline constexpr char kErrorReport[] = "--error-report";

// What a run is asked to find out beside the output, as options: "--hash-linked", "--min-sqnr=experts=30".
std::vector<std::string> AskedOf(const RunOptions& options);

// Whether a name in the partial directory is there for leases alone: that of a run, or those of parts.
bool IsOfLeases(const std::string& name);

// Below, `fs` is OUT (OutputClaim::files) and `root` a name in it, "" for itself.
// Creates the directories above `name` below `root`.
Status CreateParents(FileSystem& fs, const std::string& root, const std::string& name);
// Syncs `root` and every directory below it that is above one of `names`, the deepest first. Directories that do not
// exist are passed over: a run was stopped while it removed the partial directory.
Status SyncDirectories(FileSystem& fs, const std::string& root, const std::vector<std::string>& names);

class PartialDirectory {
 public:
  // `claim` outlives it.
  explicit PartialDirectory(const OutputClaim& claim);

  FileSystem& fs() const { return fs_; }
  const OutputClaim& claim() const { return claim_; }
  std::string path() const { return JoinPath(claim_.path(), kPartialDirectory); }  // for messages
  // Names in OUT.
  std::string files() const { return JoinPath(kPartialDirectory, "files"); }
  std::string FilePath(const std::string& name) const { return JoinPath(files(), name); }

  // ---- what was written, by its name in OUT. From any thread.
  // Takes note of the link files()/`name` as it stands now; kIo when nothing is there.
  Status TakeNoteOfLink(const std::string& name);
  void TakeNote(const std::string& name, const WrittenFile& file);
  std::optional<WrittenFile> NoteOf(const std::string& name) const;

  // ---- state.json
  struct State {
    Hash128 plan_digest;
    std::string tool_version;
    bool created_output = false;  // OUT did not exist before
    bool overwrite = false;       // what OUT held is replaced at publication
    std::vector<SourceState> sources;
    std::vector<std::string> command;     // RunOptions::command
    uint64_t unit_bytes = 0;              // that units were cut at
    std::vector<std::string> asked = {};  // AskedOf the run, or of the first of its parts
  };
  // nullopt when there is none that can be read.
  Result<std::optional<State>> ReadState() const;
  static Result<std::optional<State>> ReadState(FileSystem& fs, const std::string& path);  // of OUT; for messages
  // Empties the directory, or makes it, and writes the state. publish.json goes first, so that what is half removed is
  // never published.
  Status Start(const Plan& plan, const State& state);

  // ---- files.json, of a run in parts: the files that all of them write to
  // Durably, once all files are made and noted. `linked` is per plan file.
  Status WriteFiles(const Plan& plan, const std::vector<uint8_t>& linked, uint64_t unit_bytes);
  // Takes notes of the files; false when there is no such list, or one of them is not the file that it was. kUsage when
  // others link or cut units otherwise.
  Result<bool> LoadFiles(const Plan& plan, const std::vector<uint8_t>& linked, uint64_t unit_bytes);
  // Durably: before any of them is made anew.
  Status DropFiles();

  // ---- records
  using RecordNeeds = mimo::RecordNeeds;
  // Results of the outputs and groups of `file_group`, taken into `results`, and notes of its files; false when there
  // is no valid record of this plan, a file is not the one that was written, it lacks what is needed, or `linked` (per
  // plan file) does not match.
  Result<bool> LoadRecord(const Plan& plan, uint32_t file_group, const RecordNeeds& needs, RunResults* results);
  // Needs notes of its files.
  Status WriteRecord(const Plan& plan, uint32_t file_group, const RunResults& results);
  // Removes all records but those of `kept`, durably: before their files are touched, lest they vouch for what comes
  // after.
  Status DropRecords(const std::vector<uint32_t>& kept);

  // ---- publish.json
  struct Publication {
    Hash128 plan_digest;
    bool overwrite = false;
    bool cleared = false;                                    // what OUT held before is gone
    std::vector<std::pair<std::string, WrittenFile>> old;    // that: files and directories, by their names in OUT
    std::vector<std::pair<std::string, WrittenFile>> files;  // in the order of moving, the manifest last
    std::vector<std::string> command = {};                   // RunOptions::command
  };
  Result<std::optional<Publication>> ReadPublication() const;
  static Result<std::optional<Publication>> ReadPublication(FileSystem& fs, const std::string& path);
  Status WritePublication(const Publication& publication);

  // Makes what is missing of a directory that was begun.
  Status Repair();
  // Removes everything but the lease, with which the directory goes; publish.json last, so that an interrupted removal
  // is finished by the next --resume.
  Status Remove();

 private:
  std::string RecordName(uint32_t file_group) const;

  const OutputClaim& claim_;
  FileSystem& fs_;  // OUT
  mutable std::mutex mutex_;
  std::map<std::string, WrittenFile> notes_;
};

}  // namespace mimo
