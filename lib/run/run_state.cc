#include "lib/run/run_state.h"

#include <algorithm>
#include <tuple>

#include "lib/base/direct_io.h"
#include "lib/base/machine.h"
#include "lib/run/sources.h"

namespace mimo {
namespace {

constexpr uint64_t kMostOpen = 128;
constexpr uint64_t kFewestOpen = 8;
// Standard streams, directories, records, the lease.
constexpr uint64_t kOtherDescriptors = 64;

// How many files each of the two caches keeps open: a file that is used past the page cache has two descriptors, and
// each thread may have a queue of requests.
size_t FilesToKeepOpen(const RunOptions& options) {
  const auto threads = static_cast<uint64_t>(options.threads > 0 ? options.threads : UsableProcessors());
  const uint64_t others = kOtherDescriptors + threads * (kStepsInFlight + 1);
  const uint64_t most = MostOpenFiles();
  return std::clamp((most - std::min(most, others)) / 4, kFewestOpen, kMostOpen);
}

}  // namespace

Job MakeJob(const Catalogue& catalogue, const Plan& plan, const RunOptions& options) {
  Job job{catalogue, plan, std::vector<OutputMode>(plan.outputs.size(), OutputMode::kWrite)};
  if (options.link == LinkMode::kCopy) return job;
  for (const PlanFile& file : plan.files) {
    if (!file.unchanged) continue;
    for (const uint32_t o : file.outputs)
      job.modes[o] = options.hash_linked ? OutputMode::kHashOnly : OutputMode::kSkip;
  }
  return job;
}

std::pair<bool, bool> WantsDirect(const Catalogue& catalogue, const Plan& plan, const RunOptions& options) {
  const bool asked = IsDirect(options.io);
  if (options.io != IoMode::kAuto) return {asked, asked};
  uint64_t read = 0, written = 0;
  for (const CatalogueFile& file : catalogue.files) read += file.bytes;
  for (const PlanFile& file : plan.files) written += file.bytes;
  const uint64_t parts = options.part ? options.part->count : 1;
  const uint64_t enough = UsableMemory() / 2;
  return {read / parts > enough, written / parts > enough};
}

uint64_t UnitBytes(const RunOptions& options) {
  return options.unit_bytes != 0 ? options.unit_bytes : kUnitBytes;
}

RunState::RunState(FileSystem& file_system, const Catalogue& from, const Plan& of, const Units& cut,
                   const RunOptions& asked, PartialDirectory& into, RunResults& made, RunReport& told)
    : fs(file_system),
      catalogue(from),
      plan(of),
      units(cut),
      options(asked),
      partial(into),
      files(file_system, from, of, asked, into),
      job(MakeJob(from, of, asked)),
      readers(
          FilesToKeepOpen(asked), [this](uint32_t file) { return OpenSource(file); },
          [](ReadableFile&) { return Status(); }),
      writers(
          FilesToKeepOpen(asked), [this](uint32_t file) { return OpenOutput(file); },
          [](WritableFile& file) { return file.Close(); }),
      completion(of),
      checks(job),
      loader(job, UnitBytes(asked)),
      records(into, of, cut, UnitBytes(asked)),
      results(made),
      report(told) {
  std::tie(direct_reads, direct_writes) = WantsDirect(from, of, asked);
}

// Where it was only a wish, what has no direct I/O is read and written as files are.
Result<std::unique_ptr<ReadableFile>> RunState::OpenSource(uint32_t file) {
  MIMO_ASSIGN_OR_RETURN(auto opened, OpenUnchanged(fs, catalogue, file));
  if (!direct_reads) return opened;
  if (Status s = opened->UseDirect(DirectModeOf(options.io)); !s.ok() && IsDirect(options.io)) return s.TakeError();
  Tell(opened->direct(), &report.read_direct);
  return opened;
}

Result<std::unique_ptr<WritableFile>> RunState::OpenOutput(uint32_t file) {
  MIMO_ASSIGN_OR_RETURN(auto opened, files.OpenAgain(plan.files[file]));
  if (!direct_writes) return opened;
  if (Status s = opened->UseDirect(DirectModeOf(options.io)); !s.ok() && IsDirect(options.io)) return s.TakeError();
  Tell(opened->direct(), &report.written_direct);
  return opened;
}

void RunState::Tell(const DirectFile* file, bool* direct) {
  if (file == nullptr) return;
  const std::lock_guard lock(mutex);
  *direct = true;
  report.queued = report.queued || (file->mode() == DirectMode::kQueued && HasRequestQueue());
}

}  // namespace mimo
