// Makes the files of a plan in OUT/.mimo-partial: carried files and steps of tensor files on worker threads, records as
// file groups complete.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/base/workers.h"
#include "lib/results/manifest.h"
#include "lib/run/backend.h"
#include "lib/run/carry.h"
#include "lib/run/completion.h"
#include "lib/run/handles.h"
#include "lib/run/job.h"
#include "lib/run/memory_budget.h"
#include "lib/run/options.h"
#include "lib/run/output_files.h"
#include "lib/run/partial.h"
#include "lib/run/report.h"
#include "lib/run/source_checks.h"
#include "lib/run/sources.h"
#include "lib/run/step_sums.h"
#include "lib/run/step_work.h"
#include "lib/run/steps.h"

namespace mimo {

class StepRunner {
 public:
  // `partial` is started. All references outlive the runner.
  StepRunner(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, const RunOptions& options,
             PartialDirectory& partial);

  // kUsage when the memory budget is below what a single row needs. Reads and writes nothing.
  static Status CheckMemory(const Catalogue& catalogue, const Plan& plan, const RunOptions& options);

  // Does what is not done; on success `results` and `report` are complete but for publication.
  Status Run(RunResults& results, RunReport& report);

 private:
  struct FileGroup {
    bool done = false;     // recorded by an earlier run
    bool cut = false;      // all its steps are handed out
    uint32_t running = 0;  // steps handed out and not finished
  };
  // What shares a global scale and is read twice: its measuring steps, all handed out before the first that encodes.
  struct Measure {
    uint32_t running = 0;
    kernels::Measured sum;
  };

  Status LoadRecords(RunResults& results, RunReport& report);
  Status CheckSpace();
  Status PrepareFiles(RunReport& report);
  Status MakeBackends(RunReport& report);
  Status Work(Backend& backend);
  Status CarryFiles();
  Status TakeStep(std::optional<Step>* step, std::vector<uint32_t>* finished);
  Status RunStep(const Step& step, Backend& backend);
  Status CheckAnomalies(const StepResult& result) const;
  Status CheckExact(const StepResult& result) const;
  bool WaitForMeasure(const Step& step, kernels::Measured* measured);
  void Add(const Step& step, StepResult& result, uint64_t read, uint64_t written);
  std::vector<uint32_t> StepDone(const Step& step);
  Status FinishFileGroups(const std::vector<uint32_t>& file_groups);
  Status FinishFileGroup(uint32_t file_group);
  Status FoldSums(uint32_t file_group);
  std::pair<uint32_t, uint32_t> ShareIn(const Step& step) const;
  void Wake();

  FileSystem& fs_;
  const Catalogue& catalogue_;
  const Plan& plan_;
  const RunOptions& options_;
  PartialDirectory& partial_;
  OutputFiles files_;
  Job job_;
  const int threads_;
  const uint64_t memory_bytes_;
  const uint64_t step_bytes_;
  MemoryBudget budget_;
  HandleCache<ReadableFile> readers_;
  HandleCache<WritableFile> writers_;
  Completion completion_;
  SourceChecks checks_;
  CarriedFiles carried_;
  Workers workers_;
  std::vector<std::unique_ptr<Backend>> backends_;  // one per worker

  std::mutex mutex_;  // guards all below
  std::optional<StepCutter> cutter_;
  std::vector<FileGroup> file_groups_;
  std::optional<uint32_t> cutting_;  // the file group of the last step handed out
  StepSums sums_;
  const std::vector<std::vector<uint32_t>> files_read_;        // by file group: files of the checkpoint
  std::map<std::pair<uint32_t, uint32_t>, Measure> measures_;  // by (fuse group, share) that is read twice
  std::condition_variable measured_;                           // a measuring step is done, or the run has failed
  RunResults* results_ = nullptr;
  RunReport* report_ = nullptr;
};

}  // namespace mimo
