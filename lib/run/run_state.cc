#include "lib/run/run_state.h"

#include "lib/run/sources.h"

namespace mimo {
namespace {

constexpr size_t kOpenReaders = 128;
constexpr size_t kOpenWriters = 128;

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
          kOpenReaders, [this](uint32_t file) { return OpenUnchanged(fs, catalogue, file); },
          [](ReadableFile&) { return Status(); }),
      writers(
          kOpenWriters, [this](uint32_t file) { return files.OpenAgain(plan.files[file]); },
          [](WritableFile& file) { return file.Close(); }),
      completion(of),
      checks(job),
      loader(job, UnitBytes(asked)),
      records(into, of, cut, UnitBytes(asked)),
      results(made),
      report(told) {}

}  // namespace mimo
