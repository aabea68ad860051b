// Brings what workers have made to the disk: a complete unit is synced and recorded, and the last of a file group
// completes its files, which get the record that stands for all of them.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "lib/run/run_state.h"
#include "lib/run/unit_run.h"

namespace mimo {

class UnitKeeper {
 public:
  // `run` outlives it. `left` are the units that will be made; file groups that have none of them and are not `done`
  // are complete but for their files: see FinishEmpty.
  UnitKeeper(RunState& run, const std::vector<uint32_t>& left);

  // Completes file groups for which no unit is left, among those that `wanted` says (by file group).
  Status FinishEmpty(const std::vector<uint8_t>& wanted);

  // All steps of `unit` are done. It is kept by Serve, on its own thread, or where that is late or there is none, by
  // the caller. From any thread.
  Status Add(std::shared_ptr<UnitRun> unit);
  // Keeps what is waiting: for a worker that has no more units to make.
  Status Drain();
  // Keeps units as they come until all that were left are kept, or until Cancel.
  Status Serve();
  void Cancel();
  // Whether every unit that was left has been kept.
  bool complete() const;
  // Units that have been kept, and their bytes of output.
  std::pair<uint64_t, uint64_t> kept() const;

 private:
  Status Keep(UnitRun& unit);
  uint32_t LeftIn(uint32_t file_group) const;
  uint32_t Kept(const Unit& unit);
  Status WriteScalars(UnitRun& unit);
  Status Record(UnitRun& unit, const UnitOutcome& result);
  Status FinishFileGroup(uint32_t file_group);

  RunState& run_;
  const std::vector<std::vector<uint32_t>> files_read_;  // by file group: files of the checkpoint

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::shared_ptr<UnitRun> waiting_;
  bool served_ = false;            // somebody is in Serve
  bool serving_ = false;           // and keeps a unit
  std::vector<uint32_t> left_in_;  // by file group: units that are not on the disk
  uint64_t kept_ = 0, kept_bytes_ = 0;
  uint32_t open_groups_ = 0;  // file groups that had some, and are not complete
  bool cancelled_ = false;
};

}  // namespace mimo
