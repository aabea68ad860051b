// What the parts of the executor share while they make the files of a plan.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/results/manifest.h"
#include "lib/run/completion.h"
#include "lib/run/group_work.h"
#include "lib/run/handles.h"
#include "lib/run/job.h"
#include "lib/run/options.h"
#include "lib/run/output_files.h"
#include "lib/run/partial.h"
#include "lib/run/report.h"
#include "lib/run/source_checks.h"
#include "lib/run/unit_records.h"
#include "lib/run/units.h"

namespace mimo {

// Past the page cache one step is read and one written while one is computed.
inline constexpr int kStepsInFlight = 3;

struct RunState {
  // All references outlive it. `partial` is started.
  RunState(FileSystem& file_system, const Catalogue& from, const Plan& of, const Units& cut, const RunOptions& asked,
           PartialDirectory& into, RunResults& made, RunReport& told);

  FileSystem& fs;  // holds the checkpoint
  const Catalogue& catalogue;
  const Plan& plan;
  const Units& units;
  const RunOptions& options;
  PartialDirectory& partial;
  OutputFiles files;
  Job job;
  Result<std::unique_ptr<ReadableFile>> OpenSource(uint32_t file);
  Result<std::unique_ptr<WritableFile>> OpenOutput(uint32_t file);
  void Tell(const DirectFile* file, bool* direct);  // into the report
  HandleCache<ReadableFile> readers;                // by file of the catalogue
  HandleCache<WritableFile> writers;                // by file of the plan
  Completion completion;
  SourceChecks checks;
  PartLoader loader;
  UnitRecords records;
  // Of a part: the pages that it alone writes to, by (file, begin); other bytes go into records as edges. None
  // otherwise: all is written.
  std::optional<std::vector<FileRange>> own_pages;
  bool direct_reads = false;  // past the page cache, where the file system can
  bool direct_writes = false;

  std::mutex mutex;  // guards the two below while workers run
  RunResults& results;
  RunReport& report;
};

// Whether tensor files are read and written past the page cache under `options`, as far as their sizes tell.
std::pair<bool, bool> WantsDirect(const Catalogue& catalogue, const Plan& plan, const RunOptions& options);

// Every output of the plan with what is to become of it under `options`.
Job MakeJob(const Catalogue& catalogue, const Plan& plan, const RunOptions& options);

// The size that units are cut at.
uint64_t UnitBytes(const RunOptions& options);

}  // namespace mimo
