#include "lib/run/step_runner.h"

#include <algorithm>
#include <string>
#include <utility>

#include "lib/base/checked.h"
#include "lib/base/machine.h"
#include "lib/base/transfers.h"
#include "lib/recipe/encoding_text.h"
#include "lib/run/encode_strips.h"
#include "lib/run/replicas.h"
#include "lib/run/source_guard.h"
#include "lib/run/step_memory.h"
#include "lib/run/turns.h"
#include "lib/run/write_out.h"

namespace mimo {
namespace {

constexpr uint64_t kStepBytes = 4 << 20;  // large requests, and little enough to stay in the cache between passes
constexpr uint64_t kMostBlockBytes = 512 << 10;
constexpr uint64_t kLargeStepBytes = 96 << 20;

int Threads(const RunOptions& options) {
  return options.threads > 0 ? options.threads : ThreadsOfMachine();
}

uint64_t Memory(const RunOptions& options) {
  return options.memory_bytes != 0 ? options.memory_bytes : DefaultMemoryBytes();
}

// Bytes of the buffers that are kept for reuse: enough for the usual group that shares a global scale and for the usual
// transposed unit.
uint64_t BufferBytes(const Job& job, uint64_t memory, int threads) {
  uint64_t bytes = kStepBytes;
  const auto need = [&](uint64_t unit) {
    if (unit <= kLargeStepBytes) bytes = std::max(bytes, unit);
  };
  for (uint32_t g = 0; g < job.plan.groups.size(); ++g) {
    if (job.plan.groups[g].SharesGlobal()) {
      const std::vector<EncodeStrip> encodes = EncodesOf(job, g);
      for (auto begin = encodes.begin(); begin != encodes.end();) {
        const auto end = EndOfShare(job, begin, encodes.end());
        need(SharedMemory(job, std::span(begin, end)));
        begin = end;
      }
    }
    for (const TurnUnit& unit : TurnsOf(job, g)) need(TurnMemory(job, unit));
  }
  return std::min(bytes, memory / static_cast<uint64_t>(threads));
}

// What reading and writing whole blocks may add to the buffer of a step, where memory has room for it.
uint64_t BlockBytes(const RunState& run, uint64_t memory, uint64_t buffer, int workers) {
  if (!run.direct_reads && !run.direct_writes) return 0;
  return memory / static_cast<uint64_t>(workers) >= buffer + kMostBlockBytes ? kMostBlockBytes : 0;
}

// No memory; or the run has failed elsewhere, and this is lost to the first error.
Error Stopped(uint64_t bytes) {
  return IoError("no memory for a step of " + std::to_string(bytes) + " bytes").Advice(kStoppedAdvice);
}

void Count(std::string& text, uint64_t count, const char* what) {
  if (count == 0) return;
  if (!text.empty()) text += ", ";
  text += std::to_string(count) + " " + what;
}

}  // namespace

StepRunner::StepRunner(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, const Units& units,
                       const RunOptions& options, PartialDirectory& partial, RunResults& results, RunReport& report)
    : run_(fs, catalogue, plan, units, options, partial, results, report),
      earlier_(run_),
      share_(options.part ? UnitsOfPart(units.list, *options.part)
                          : std::pair(uint32_t{0}, static_cast<uint32_t>(units.list.size()))),
      threads_(Threads(options)),
      workers_of_steps_(run_.direct_reads || run_.direct_writes ? threads_ * kStepsInFlight : threads_),
      memory_bytes_(Memory(options)),
      step_bytes_(std::min(kStepBytes, memory_bytes_ / static_cast<uint64_t>(workers_of_steps_))),
      buffer_bytes_(BufferBytes(run_.job, memory_bytes_, threads_)),
      block_bytes_(BlockBytes(run_, memory_bytes_, buffer_bytes_, workers_of_steps_)),
      budget_(memory_bytes_, buffer_bytes_ + block_bytes_),
      carried_(fs, catalogue, plan, options, partial),
      workers_(workers_of_steps_ > 1 ? workers_of_steps_ + 1 : 1, kStoppedAdvice) {}

Status StepRunner::CheckMemory(const Units& units, const RunOptions& options) {
  if (units.largest_row_bytes <= Memory(options)) return {};
  return UsageError("the memory budget is too small for the smallest step of this conversion")
      .Expected("at least " + std::to_string(units.largest_row_bytes) + " bytes")
      .Found(std::to_string(Memory(options)) + " bytes")
      .Advice("raise --memory");
}

void StepRunner::StartResults(const Plan& plan, const RunOptions& options, RunResults* results) {
  results->tensors.assign(plan.outputs.size(), {});
  results->groups.assign(plan.groups.size(), {});
  results->linked.assign(plan.files.size(), 0);
  for (size_t f = 0; f < plan.files.size(); ++f)
    results->linked[f] = options.link != LinkMode::kCopy && plan.files[f].unchanged ? 1 : 0;
}

Status StepRunner::Prepare() {
  RunResults& results = run_.results;
  RunReport& report = run_.report;
  StartResults(run_.plan, run_.options, &results);
  results.checksums = report.checksums = run_.checks.counts();
  report.unverified = run_.checks.Unverified();
  report.threads = threads_;
  report.memory_bytes = memory_bytes_;
  return PrepareFiles();
}

// Of a run in parts the first that comes makes all files; what they hold is never made anew while another is at work.
Status StepRunner::PrepareFiles() {
  if (!run_.options.part) {
    MIMO_RETURN_IF_ERROR(earlier_.Load());
    if (!run_.options.join) MIMO_RETURN_IF_ERROR(earlier_.Prepare());
    return {};
  }
  const uint64_t unit_bytes = UnitBytes(run_.options);
  MIMO_ASSIGN_OR_RETURN(const bool made, run_.partial.LoadFiles(run_.plan, run_.results.linked, unit_bytes));
  joins_others_ = made;
  if (made) return {};
  MIMO_RETURN_IF_ERROR(run_.partial.claim().CheckAlone());
  MIMO_RETURN_IF_ERROR(earlier_.Load());
  MIMO_RETURN_IF_ERROR(earlier_.Prepare());
  return run_.partial.WriteFiles(run_.plan, run_.results.linked, unit_bytes);
}

// What of the share is there and what is left. Of a part that found all files: while others come, for theirs is not
// touched.
Status StepRunner::TakeStock() {
  if (joins_others_) MIMO_RETURN_IF_ERROR(earlier_.LoadOwn(share_.first, share_.second));
  if (run_.options.part)
    run_.own_pages = PagesWithin(
        run_.plan, RangesOf(run_.job, run_.units.list, share_.first, share_.second, run_.loader), PageBytes());
  const auto all = static_cast<uint32_t>(run_.units.list.size());
  left_ = earlier_.Left(share_.first, share_.second);
  run_.report.units = all;
  run_.report.units_left = earlier_.Left(0, all).size();
  return run_.options.join && !left_.empty() ? Status(NotMade(run_.options, run_.units, left_)) : Status();
}

Error StepRunner::NotMade(const RunOptions& options, const Units& units, const std::vector<uint32_t>& left) {
  return IoError("units of the output are not made yet")
      .File(options.output)
      .Expected(std::to_string(units.list.size()) + " units")
      .Found(std::to_string(left.size()) + " missing, from unit " + std::to_string(left.front()) + " on")
      .Advice("run the parts that have not ended well again, then join; or make the rest in one run with --resume");
}

// What has to hold of the source before a unit is made, in the share of this part; a join looks at what none has seen.
Status StepRunner::LookAtSource() {
  using Looked = UnitRecords::Looked;
  const auto look = [&](Looked at, size_t of, std::pair<size_t, size_t> share, const auto& check) -> Status {
    const auto [first, end] = run_.options.part ? share : std::pair(size_t{0}, of);
    MIMO_ASSIGN_OR_RETURN(const std::vector<size_t> entries, earlier_.Unseen(at, first, end, of));
    MIMO_RETURN_IF_ERROR(check(entries));
    return run_.options.part && !entries.empty() ? run_.records.WriteLooked(at, {first, end}, of) : Status();
  };
  const RunPart part = run_.options.part.value_or(RunPart());
  MIMO_RETURN_IF_ERROR(look(Looked::kEqual, run_.plan.equal.size(), EqualRowsOfPart(run_.plan, part),
                            [&](const std::vector<size_t>& entries) {
                              return CompareReplicas(run_.fs, run_.catalogue, run_.plan, entries, run_.options,
                                                     run_.partial.claim(), run_.report);
                            }));
  SourceGuard* const guard = run_.options.guard;
  if (guard == nullptr) return {};
  return look(Looked::kGuard, guard->entries(), EntriesOfPart(guard->entries(), part),
              [&](const std::vector<size_t>& entries) { return entries.empty() ? Status() : guard->Check(entries); });
}

Status StepRunner::Make() {
  MIMO_RETURN_IF_ERROR(TakeStock());
  MIMO_RETURN_IF_ERROR(MakeBackends());
  MIMO_RETURN_IF_ERROR(LookAtSource());
  const bool part = run_.options.part.has_value();
  if (run_.options.join) MIMO_RETURN_IF_ERROR(earlier_.Prepare());
  if (!part) {
    MIMO_RETURN_IF_ERROR(earlier_.WriteEdges());
    MIMO_RETURN_IF_ERROR(carried_.Prepare(&run_.results));
  }
  keeper_.emplace(run_, left_);
  if (!part) MIMO_RETURN_IF_ERROR(keeper_->FinishEmpty(earlier_.open()));
  lanes_.emplace(run_.job, run_.loader, run_.units.list, left_, step_bytes_, memory_bytes_, workers_of_steps_,
                 threads_);
  StartProgress();
  Status run =
      workers_.Run([this](int i) { return i < workers_of_steps_ ? Work(i) : keeper_->Serve(); }, [this] { Wake(); });
  if (run_.options.progress != nullptr) run_.options.progress->Finish();
  if (run.ok() && !keeper_->complete()) run = IoError("units of the output were not made").File(run_.options.output);
  run_.report.units_made = left_.size();
  run_.report.units_left -= left_.size();
  if (!run.ok() && run.error().code == ErrorCode::kInterrupted) return run.TakeError().Found(WhatStays());
  return run;
}

// "12 of 40 units (3.2 GB) are on the disk and stay".
std::string StepRunner::WhatStays() const {
  const ProgressTotals totals = earlier_.ProgressOf(share_.first, share_.second);
  const auto [units, bytes] = keeper_->kept();
  return std::to_string(totals.units_before + units) + " of " + std::to_string(totals.units) + " units (" +
         FormatBytes(totals.bytes_before + bytes) + ") are on the disk and stay";
}

// In bytes of output: of this share, what was made before among them.
void StepRunner::StartProgress() {
  if (run_.options.progress == nullptr) return;
  ProgressTotals totals = earlier_.ProgressOf(share_.first, share_.second);
  if (!run_.options.part) totals.bytes += carried_.progress_bytes();
  run_.options.progress->StartFrom(totals);
}

Status StepRunner::MakeBackends() {
  DeviceChoice choice = run_.options.device;
  for (int i = 0; i < threads_; ++i) {
    MIMO_ASSIGN_OR_RETURN(auto backend, MakeBackend(choice, run_.options.cuda_device,
                                                    memory_bytes_ / static_cast<uint64_t>(4 * threads_)));
    if (i == 0) run_.report.device = backend->name();
    if (i == 0 && run_.report.device.starts_with("cpu")) choice = DeviceChoice::kCpu;
    backends_.Add(std::move(backend));
  }
  return {};
}

// A worker has failed: those who wait for memory, for a measure or for units give up.
void StepRunner::Wake() {
  budget_.Cancel();
  lanes_->Cancel();
  keeper_->Cancel();
}

// First, for a large one is not cut, and others go on with steps while it is copied.
Status StepRunner::CarryFiles() {
  const uint64_t bytes = std::min(buffer_bytes_, CarriedFiles::kChunkBytes);
  while (!workers_.stopped()) {
    const auto file = carried_.Take();
    if (!file) break;
    const Buffer buffer = budget_.Acquire(bytes);
    if (!buffer) return Stopped(bytes);
    MIMO_ASSIGN_OR_RETURN(const CarriedFiles::Counts counts, carried_.Carry(*file, {buffer.data(), bytes}));
    const std::lock_guard lock(run_.mutex);
    ++(counts.linked ? run_.report.files_linked : run_.report.files_written);
    run_.report.bytes_read += counts.read;
    run_.report.bytes_written += counts.written;
  }
  return {};
}

Status StepRunner::Work(int index) {
  if (!run_.options.part) MIMO_RETURN_IF_ERROR(CarryFiles());
  while (!workers_.stopped()) {
    MIMO_RETURN_IF_ERROR(run_.partial.claim().CheckStop());
    std::optional<Lanes::Work> work = lanes_->Take(index);
    if (!work) break;
    bool last = false;
    MIMO_RETURN_IF_ERROR(RunStep(*work->unit, work->step, &last));
    if (last) MIMO_RETURN_IF_ERROR(keeper_->Add(std::move(work->unit)));
  }
  return workers_.stopped() ? Status() : keeper_->Drain();
}

Status StepRunner::RunStep(UnitRun& unit, const Step& step, bool* last) {
  kernels::Measured measured;
  EncodeRequest request;
  request.errors = run_.options.measure_errors;
  if (step.pass == GlobalPass::kMeasured) {
    if (!unit.WaitForMeasure(step, &measured)) return Stopped(0);
    request.measured = &measured;
  }
  // Whole blocks around what is read are a wish, that of the budget there is no more to have.
  const uint64_t most =
      std::min(std::max(step_bytes_, step.memory_bytes) + block_bytes_, std::max(memory_bytes_, step.memory_bytes));
  const StepWork work(run_.job, step, most, {run_.direct_reads, run_.direct_writes});
  const Buffer buffer = budget_.Acquire(work.buffer_bytes());
  if (!buffer) return Stopped(work.buffer_bytes());
  std::vector<uint32_t> files;
  MIMO_ASSIGN_OR_RETURN(const uint64_t read, ReadSources(unit, step, work, buffer.data(), &files));
  MIMO_ASSIGN_OR_RETURN(const StepResult result, work.Transform(buffer.data(), *BackendPool::Loan(backends_), request));
  if (!run_.options.allow_anomalies) MIMO_RETURN_IF_ERROR(CheckAnomalies(result));
  if (run_.plan.options.lossless) MIMO_RETURN_IF_ERROR(CheckExact(result));
  MIMO_ASSIGN_OR_RETURN(const uint64_t written, WriteOut(run_, unit, result));
  {
    const std::lock_guard lock(run_.mutex);
    run_.report.bytes_read += read;
    run_.report.bytes_written += written;
  }
  uint64_t progress = 0;
  *last = unit.Add(step, result, files, &progress);
  if (run_.options.progress != nullptr) run_.options.progress->Advance(progress);
  return {};
}

// The bytes that were read, and the numbers of the files.
Result<uint64_t> StepRunner::ReadSources(UnitRun& unit, const Step& step, const StepWork& work, std::byte* buffer,
                                         std::vector<uint32_t>* files) {
  std::vector<std::shared_ptr<ReadableFile>> open;
  std::vector<ReadRequest> requests;
  for (const Extent& extent : work.reads()) {
    if (files->empty() || files->back() != extent.file) {
      files->push_back(extent.file);
      MIMO_ASSIGN_OR_RETURN(auto file, run_.readers.Get(extent.file));
      open.push_back(std::move(file));
    }
    requests.push_back({open.back().get(), extent.begin, {buffer + extent.offset, extent.bytes}, extent.whole_blocks});
  }
  MIMO_RETURN_IF_ERROR(ReadAll(requests));
  uint64_t read = 0;
  for (const Extent& extent : work.reads()) {
    const std::span data(buffer + extent.offset, extent.bytes);
    MIMO_RETURN_IF_ERROR(run_.checks.Add(step.file_group, unit.number(), extent.file, extent.begin, data));
    read += extent.bytes;
  }
  return read;
}

Status StepRunner::CheckAnomalies(const StepResult& result) const {
  for (const OutputDelta& delta : result.outputs) {
    const kernels::Anomalies& a = delta.anomalies;
    if (a == kernels::Anomalies()) continue;
    Error error = BadInput("values that cannot be converted faithfully into " + run_.plan.outputs[delta.output].name);
    if (delta.source != kNone) {
      const StoredArray& source = run_.job.array(delta.source);
      error.file = run_.catalogue.PathOf(run_.catalogue.files[source.file]);
      error.tensor = source.name;
    }
    error.expected = "finite values and positive finite scales";
    Count(error.found, a.nan_codes, "NaN");
    Count(error.found, a.infinities, "infinite");
    Count(error.found, a.zero_scale_codes, "non-zero codes under a zero scale");
    Count(error.found, a.bad_scales, "scales that are NaN, infinite or negative");
    Count(error.found, a.overflows, "values that overflow the target");
    error.found += " in the rows read so far";
    error.advice = "check the checkpoint; --allow-anomalies counts them instead";
    return error;
  }
  return {};
}

// What the plan left open: whether the data takes the exact paths.
Status StepRunner::CheckExact(const StepResult& result) const {
  for (const OutputDelta& delta : result.outputs) {
    if (delta.inexact_codes == 0) continue;
    return CheckFailed("codes that lose a bit")
        .Tensor(run_.plan.outputs[delta.output].name)
        .Expected("nothing that rounds (--lossless)")
        .Found(std::to_string(delta.inexact_codes) + " codes in the rows read so far")
        .Advice("leave --lossless out");
  }
  for (const EncodeDelta& delta : result.encodes) {
    if (delta.counts.exact_blocks == delta.counts.encoded_blocks) continue;
    const EncodedWeight& weight = run_.plan.groups[delta.strip.group].encoded[delta.strip.weight];
    return CheckFailed("blocks that cannot become " + EncodingText(weight.encoding) + " without rounding")
        .Tensor(run_.plan.outputs[weight.codes].name)
        .Expected("nothing that rounds (--lossless)")
        .Found(std::to_string(delta.counts.encoded_blocks - delta.counts.exact_blocks) + " of " +
               std::to_string(delta.counts.encoded_blocks) + " blocks in the rows read so far")
        .Advice("leave --lossless out, or keep these weights");
  }
  return {};
}

}  // namespace mimo
