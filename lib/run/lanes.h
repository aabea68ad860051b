// Shares units out among workers. The units of a lane begin in one output file: a worker stays with its unit and then
// with its lane, new workers take lanes where nobody is, the longest first, for two who write into one file wait for
// each other; and when all units are begun, the others help with those that are left.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "lib/run/unit_run.h"

namespace mimo {

// Thread-safe. Who takes what decides nothing but time.
class Lanes {
 public:
  struct Work {
    std::shared_ptr<UnitRun> unit;
    Step step;
  };

  // References outlive it; `numbers` are those of the units to make, ascending, `limit` and `shared_limit` as for
  // StepCutter. Workers are numbered from 0 below `workers`; no more than `most_units` are begun and not handed out
  // whole: further workers help with those.
  Lanes(const Job& job, PartLoader& loader, const std::vector<Unit>& units, const std::vector<uint32_t>& numbers,
        uint64_t limit, uint64_t shared_limit, int workers, int most_units);

  // What `worker` does next; nullopt when nothing is left to begin or to help with.
  std::optional<Work> Take(int worker);
  // Wakes those who wait in a unit; nothing is handed out from then on.
  void Cancel();

 private:
  struct Lane {
    std::deque<uint32_t> waiting;  // numbers of units, ascending
    uint64_t left = 0;             // cost of those
    int workers = 0;               // who are in units of it
  };
  struct Worker {
    std::shared_ptr<UnitRun> unit;
    uint32_t lane = kNone;
  };

  std::shared_ptr<UnitRun> Choose(Worker& worker);
  uint32_t FreestLane(const Worker& worker) const;
  void Leave(Worker& worker);
  void Exhausted(const std::shared_ptr<UnitRun>& unit);

  const Job& job_;
  PartLoader& loader_;
  const std::vector<Unit>& units_;
  const uint64_t limit_;
  const uint64_t shared_limit_;
  const size_t most_units_;

  std::mutex mutex_;                             // guards all below
  std::map<uint32_t, Lane> lanes_;               // by the file in which their units begin
  std::vector<Worker> workers_;                  // each is touched by its owner, under the lock
  std::vector<std::shared_ptr<UnitRun>> begun_;  // that may have steps nobody has taken
  std::vector<std::weak_ptr<UnitRun>> running_;  // those, and others that somebody still is at work on
  bool cancelled_ = false;
};

}  // namespace mimo
