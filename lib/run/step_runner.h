// Makes the files of a plan in OUT/.mimo-partial: carried files and the units of tensor files on worker threads, which
// are recorded as they complete.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/base/workers.h"
#include "lib/results/manifest.h"
#include "lib/run/backend_pool.h"
#include "lib/run/carry.h"
#include "lib/run/earlier_work.h"
#include "lib/run/lanes.h"
#include "lib/run/memory_budget.h"
#include "lib/run/run_state.h"
#include "lib/run/step_work.h"
#include "lib/run/unit_keeper.h"

namespace mimo {

class StepRunner {
 public:
  // `partial` is started. All references outlive the runner.
  StepRunner(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, const Units& units,
             const RunOptions& options, PartialDirectory& partial, RunResults& results, RunReport& report);

  // kUsage when the memory budget is below what a single row needs. Reads and writes nothing.
  static Status CheckMemory(const Units& units, const RunOptions& options);

  // What results begin with.
  static void StartResults(const Plan& plan, const RunOptions& options, RunResults* results);
  // That units are not made which a join needs.
  static Error NotMade(const RunOptions& options, const Units& units, const std::vector<uint32_t>& left);

  // Takes over what earlier runs have made, and makes the files of the rest, or finds that another part has made them.
  // Other parts that begin wait for this.
  Status Prepare();
  // Takes over what is there of a part's share. Compares replicas, then makes what is not made; on success `results`
  // and `report` are complete but for publication. A part makes its units alone. With options.join nothing is made: kIo
  // where something is left.
  Status Make();

 private:
  Status PrepareFiles();
  Status TakeStock();
  Status LookAtSource();
  void StartProgress();
  std::string WhatStays() const;
  Status MakeBackends();
  Status Work(int index);
  Status CarryFiles();
  Status RunStep(UnitRun& unit, const Step& step, bool* last);
  Result<uint64_t> ReadSources(UnitRun& unit, const Step& step, const StepWork& work, std::byte* buffer,
                               std::vector<uint32_t>* files);
  Status CheckAnomalies(const StepResult& result) const;
  Status CheckExact(const StepResult& result) const;
  void Wake();

  RunState run_;
  EarlierWork earlier_;
  std::pair<uint32_t, uint32_t> share_;  // units [first, end) that are this run's to make
  std::vector<uint32_t> left_;           // those of them that are not made
  bool joins_others_ = false;            // of a part: another has made the files
  const int threads_;                    // that compute
  const int workers_of_steps_;           // more, where they wait for disks
  const uint64_t memory_bytes_;
  const uint64_t step_bytes_;
  const uint64_t buffer_bytes_;
  const uint64_t block_bytes_;  // more, where requests are of whole blocks
  MemoryBudget budget_;
  CarriedFiles carried_;
  Workers workers_;
  BackendPool backends_;  // one per thread
  std::optional<Lanes> lanes_;
  std::optional<UnitKeeper> keeper_;
};

}  // namespace mimo
