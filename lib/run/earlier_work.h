// What earlier runs have left in OUT/.mimo-partial: what of it counts, and the files for what is still to be made.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "lib/base/progress.h"
#include "lib/run/run_state.h"

namespace mimo {

// Bytes that the files of an output will take, beside those of file groups that are `done` (by number).
uint64_t SpaceNeeded(const Catalogue& catalogue, const Plan& plan, const RunOptions& options,
                     const std::vector<uint8_t>& done);

class EarlierWork {
 public:
  // `run` outlives it.
  explicit EarlierWork(RunState& run)
      : run_(run), done_(run.plan.file_groups, 0), recorded_(run.units.list.size(), 0) {}

  // Where all files are made already, by another part: takes the word of records likewise, of the units [first, end),
  // and removes those that do not count; of other units it goes by the names of records alone, whose parts look at
  // them.
  Status LoadOwn(uint32_t first, uint32_t end);
  // Takes the word of records for file groups and, in others, for units: what they came to goes into the results of the
  // run, and outputs of complete groups are skipped from then on. Changes nothing in OUT. kUsage: they hold anomalies
  // that this run does not allow. kBadInput: what they read of the source does not have its CRC-32.
  Status Load();
  // Removes records that do not count, then the files of their groups, which may be links to the checkpoint; and makes
  // the files that are missing. kIo where there is no space.
  Status Prepare();

  // Writes what parts have left for whoever joins them: the bytes of pages that several of them write to.
  Status WriteEdges();

  bool IsDone(uint32_t file_group) const { return done_[file_group] != 0; }
  // Whether each file group is yet to be completed.
  std::vector<uint8_t> open() const;
  // Units of [first, end) that are to be made, ascending: neither recorded nor without anything to do.
  std::vector<uint32_t> Left(uint32_t first, uint32_t end) const;
  // Bytes that are still to be taken of the file system.
  Result<uint64_t> SpaceLeft() const;
  // Bytes of output, units and files of [first, end), and how many of them are there. Units without anything to do, and
  // files that are linked, are none.
  ProgressTotals ProgressOf(uint32_t first, uint32_t end) const;
  // Entries of [first, end), of `of`, that no part has looked at, ascending.
  Result<std::vector<size_t>> Unseen(UnitRecords::Looked at, size_t first, size_t end, size_t of) const;

 private:
  Status LoadGroups();
  Status LoadUnits(uint32_t first, uint32_t end);
  Status LoadShare(uint32_t first, uint32_t end);
  Status CheckAnomalies() const;
  Result<bool> HoldsFiles(const UnitRecord& record) const;
  Status CheckSpace() const;

  RunState& run_;
  std::vector<uint8_t> done_;             // by file group
  std::vector<uint8_t> recorded_;         // by unit, in groups that are not done
  std::vector<uint32_t> stored_;          // numbers of all unit records that are there
  std::vector<uint32_t> with_edges_;      // of those that count
  std::map<uint32_t, WrittenFile> kept_;  // files with recorded units, into Plan::files
};

}  // namespace mimo
