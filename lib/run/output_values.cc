#include "lib/run/output_values.h"

#include <utility>

#include "lib/run/memory_budget.h"
#include "lib/run/planned_files.h"
#include "lib/run/publish.h"
#include "lib/run/sources.h"
#include "lib/run/value_hasher.h"

namespace mimo {
namespace {

// What was converted is not bad because of this, and is kept.
Status Unhashable(Status status, const std::string& output, const char* advice) {
  if (status.ok()) return status;
  const ErrorCode code = status.error().code;
  if (code != ErrorCode::kBadInput && code != ErrorCode::kCheckFailed && code != ErrorCode::kUsage) return status;
  return UsageError("the values of this output cannot be hashed")
      .File(output)
      .Expected("a whole checkpoint that can be opened")
      .Found(status.error().Message())
      .Advice(advice);
}

}  // namespace

// What was said of the source holds of an output that lies as it does; others say themselves how they lie.
OpenOptions OutputValues::HowToOpen() const {
  OpenOptions open{.allow_anomalies = true};
  if (plan_.source_layout.layout == plan_.target_layout) open.source_qkv = plan_.options.source_qkv;
  return open;
}

Status OutputValues::Check() const {
  if (options_.hash_values == nullptr) return {};
  const uint64_t memory = options_.memory_bytes > 0 ? options_.memory_bytes : DefaultMemoryBytes();
  PlannedFiles planned(fs_, catalogue_, plan_, options_.output, memory / 4);
  return Unhashable(options_.hash_values->Check(planned, options_.output, HowToOpen()), options_.output,
                    "leave --hash-values out");
}

Status OutputValues::Hash(RunResults* results) const {
  if (options_.hash_values == nullptr) return {};
  PlannedFiles written(fs_, catalogue_, plan_, options_.output,
                       [&](uint32_t file) { return OpenWritten(file, *results); });
  auto hashes = options_.hash_values->Hash(written, options_.output, HowToOpen(),
                                           [this] { return partial_.claim().CheckStop(); });
  if (!hashes.ok())
    return Unhashable(hashes.TakeError(), options_.output, "run again with --resume and without --hash-values");
  results->logical_hashes = std::move(hashes).value();
  return {};
}

// A link may lead nowhere until it is moved.
Result<std::unique_ptr<ReadableFile>> OutputValues::OpenWritten(uint32_t file, const RunResults& results) const {
  const PlanFile& planned = plan_.files[file];
  if (results.linked[file] != 0) return OpenUnchanged(fs_, catalogue_, planned.source_file);
  const std::string path = partial_.FilePath(planned.name);
  MIMO_ASSIGN_OR_RETURN(auto opened, partial_.fs().OpenForRead(path));
  MIMO_ASSIGN_OR_RETURN(const FileInfo info, opened->Info());
  const auto made = partial_.NoteOf(planned.name);
  if (!made || !made->IsAsWritten(WrittenFileOf(info), false)) return Replaced(partial_, path);
  return opened;
}

}  // namespace mimo
