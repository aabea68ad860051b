#include "lib/run/step_runner.h"

#include <algorithm>
#include <utility>

#include "lib/base/checked.h"
#include "lib/recipe/encoding_text.h"
#include "lib/run/encode_strips.h"
#include "lib/run/step_memory.h"
#include "lib/run/turns.h"

namespace mimo {
namespace {

constexpr uint64_t kStepBytes = 32 << 20;  // large requests, and little enough to stay in the cache between passes
constexpr uint64_t kLargeStepBytes = 96 << 20;
constexpr size_t kOpenReaders = 128;
constexpr size_t kOpenWriters = 128;

int Threads(const RunOptions& options) {
  return options.threads > 0 ? options.threads : ThreadsOfMachine();
}

uint64_t Memory(const RunOptions& options) {
  return options.memory_bytes != 0 ? options.memory_bytes : DefaultMemoryBytes();
}

// Large enough for the usual group that shares a global scale and for the usual transposed unit, so that their buffers
// are among those that are reused.
uint64_t StepBytes(const Job& job, uint64_t memory, int threads) {
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

StepRunner::StepRunner(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, const RunOptions& options,
                       PartialDirectory& partial)
    : fs_(fs),
      catalogue_(catalogue),
      plan_(plan),
      options_(options),
      partial_(partial),
      files_(fs, catalogue, plan, options, partial),
      job_(MakeJob(catalogue, plan, options)),
      threads_(Threads(options)),
      memory_bytes_(Memory(options)),
      step_bytes_(StepBytes(job_, memory_bytes_, threads_)),
      budget_(memory_bytes_, step_bytes_),
      readers_(
          kOpenReaders, [this](uint32_t file) { return OpenUnchanged(fs_, catalogue_, file); },
          [](ReadableFile&) { return Status(); }),
      writers_(
          kOpenWriters, [this](uint32_t file) { return files_.OpenAgain(plan_.files[file]); },
          [](WritableFile& file) { return file.Close(); }),
      completion_(plan),
      checks_(job_),
      carried_(fs, catalogue, plan, options, partial),
      workers_(threads_, kStoppedAdvice),
      file_groups_(plan.file_groups),
      sums_(plan),
      files_read_(FilesReadBy(catalogue, plan)) {}

Status StepRunner::CheckMemory(const Catalogue& catalogue, const Plan& plan, const RunOptions& options) {
  const uint64_t needed = MeasureJob(MakeJob(catalogue, plan, options)).largest_unit_bytes;
  if (needed <= Memory(options)) return {};
  return UsageError("the memory budget is too small for the smallest step of this conversion")
      .Expected("at least " + std::to_string(needed) + " bytes")
      .Found(std::to_string(Memory(options)) + " bytes")
      .Advice("raise --memory");
}

Status StepRunner::Run(RunResults& results, RunReport& report) {
  results_ = &results;
  report_ = &report;
  results.tensors.assign(plan_.outputs.size(), {});
  results.groups.assign(plan_.groups.size(), {});
  results.linked.assign(plan_.files.size(), 0);
  for (size_t f = 0; f < plan_.files.size(); ++f) {
    results.linked[f] = options_.link != LinkMode::kCopy && plan_.files[f].unchanged ? 1 : 0;
  }
  results.checksums = report.checksums = checks_.counts();
  report.unverified = checks_.Unverified();
  report.threads = threads_;
  report.memory_bytes = memory_bytes_;
  MIMO_RETURN_IF_ERROR(LoadRecords(results, report));
  // What is made in this run starts from zero; tensors that are linked and not read keep no hash.
  for (size_t o = 0; o < plan_.outputs.size(); ++o) {
    if (job_.modes[o] != OutputMode::kSkip) results.tensors[o].hash = Hash128();
  }
  MIMO_RETURN_IF_ERROR(MakeBackends(report));
  MIMO_RETURN_IF_ERROR(PrepareFiles(report));
  MIMO_RETURN_IF_ERROR(carried_.Prepare(&results));
  const JobSize size = MeasureJob(job_);
  for (uint32_t g = 0; g < plan_.file_groups; ++g) {
    if (!file_groups_[g].done && size.busy_file_groups[g] == 0) MIMO_RETURN_IF_ERROR(FinishFileGroup(g));
  }
  if (options_.progress != nullptr) options_.progress->Start(size.progress_bytes + carried_.progress_bytes());
  cutter_.emplace(job_, step_bytes_, memory_bytes_);
  Status run = workers_.Run([this](int i) { return Work(*backends_[static_cast<size_t>(i)]); }, [this] { Wake(); });
  if (options_.progress != nullptr) options_.progress->Finish();
  return run;
}

Status StepRunner::LoadRecords(RunResults& results, RunReport& report) {
  std::vector<uint32_t> kept;
  for (uint32_t g = 0; g < plan_.file_groups; ++g) {
    MIMO_ASSIGN_OR_RETURN(file_groups_[g].done,
                          partial_.LoadRecord(plan_, g, {options_.hash_linked, options_.measure_errors}, &results));
    if (!file_groups_[g].done) continue;
    kept.push_back(g);
    ++report.groups_resumed;
  }
  for (const TensorResult& tensor : results.tensors) {
    if (options_.allow_anomalies || tensor.anomalies == kernels::Anomalies()) continue;
    // not bad input: that would throw away what was made on purpose
    return UsageError("the partial output holds values that --allow-anomalies let through")
        .File(partial_.path())
        .Advice("repeat --allow-anomalies, or start again with --overwrite");
  }
  MIMO_RETURN_IF_ERROR(partial_.claim().Confirm());
  MIMO_RETURN_IF_ERROR(partial_.DropRecords(kept));
  for (const PlanFile& file : plan_.files) {
    if (!file_groups_[file.file_group].done) continue;
    for (const uint32_t o : file.outputs) job_.modes[o] = OutputMode::kSkip;
  }
  return {};
}

Status StepRunner::MakeBackends(RunReport& report) {
  DeviceChoice choice = options_.device;
  for (int i = 0; i < threads_; ++i) {
    MIMO_ASSIGN_OR_RETURN(
        auto backend, MakeBackend(choice, options_.cuda_device, memory_bytes_ / static_cast<uint64_t>(4 * threads_)));
    if (i == 0) report.device = backend->name();
    if (i == 0 && report.device.starts_with("cpu")) choice = DeviceChoice::kCpu;
    backends_.push_back(std::move(backend));
  }
  return {};
}

Status StepRunner::CheckSpace() {
  uint64_t needed = 0;
  for (size_t f = 0; f < plan_.files.size(); ++f) {
    if (results_->linked[f] == 0 && !file_groups_[plan_.files[f].file_group].done) needed += plan_.files[f].bytes;
  }
  for (const TextFile& text : plan_.texts) needed += text.content.size();
  for (const CarriedFile& file : catalogue_.carried) {
    if (CarriedFiles::Links(file.name, options_)) continue;
    if (std::find(plan_.carried.begin(), plan_.carried.end(), file.name) != plan_.carried.end()) needed += file.bytes;
  }
  MIMO_ASSIGN_OR_RETURN(const uint64_t available, partial_.fs().FreeBytes(kPartialDirectory));
  if (needed <= available) return {};
  return IoError("not enough free space for the output")
      .File(options_.output)
      .Expected(FormatBytes(needed))
      .Found(FormatBytes(available))
      .Advice(
          "free some space and run again with --resume, choose another file system, or use --link for unchanged files");
}

// Leftovers of an earlier run are removed, never reused: they may be links to the checkpoint.
Status StepRunner::PrepareFiles(RunReport& report) {
  for (const PlanFile& file : plan_.files) {
    if (!file_groups_[file.file_group].done)
      MIMO_RETURN_IF_ERROR(partial_.fs().RemoveAll(partial_.FilePath(file.name)));
  }
  MIMO_RETURN_IF_ERROR(CheckSpace());
  for (size_t f = 0; f < plan_.files.size(); ++f) {
    const PlanFile& file = plan_.files[f];
    const bool linked = results_->linked[f] != 0;
    ++(linked ? report.files_linked : report.files_written);
    // Links are made again even where a record vouches for the file: they cost nothing, and say what they should.
    if (linked || !file_groups_[file.file_group].done) MIMO_RETURN_IF_ERROR(files_.Make(file, linked));
  }
  return {};
}

// A worker has failed: those who wait for memory or for a measure give up.
void StepRunner::Wake() {
  const std::lock_guard lock(mutex_);
  budget_.Cancel();
  measured_.notify_all();
}

// No step when there is nothing left to take. `finished`: file groups whose last step was done before this was known.
// kInterrupted when asked to stop.
Status StepRunner::TakeStep(std::optional<Step>* step, std::vector<uint32_t>* finished) {
  const std::lock_guard lock(mutex_);
  if (workers_.stopped()) return {};
  MIMO_RETURN_IF_ERROR(partial_.claim().CheckStop());
  *step = cutter_->Next();
  if (cutting_ && (!*step || (*step)->file_group != *cutting_)) {
    FileGroup& group = file_groups_[*cutting_];
    group.cut = true;
    if (group.running == 0 && !group.done) {
      group.done = true;
      finished->push_back(*cutting_);
    }
    cutting_.reset();
  }
  if (!*step) return {};
  cutting_ = (*step)->file_group;
  ++file_groups_[*cutting_].running;
  if ((*step)->pass == GlobalPass::kMeasure) {
    const auto [measure, fresh] = measures_.try_emplace(ShareIn(**step));
    ++measure->second.running;
    report_->groups_read_twice += fresh;
  }
  return {};
}

// The file group of `step`, if this was its last one.
std::vector<uint32_t> StepRunner::StepDone(const Step& step) {
  const std::lock_guard lock(mutex_);
  FileGroup& group = file_groups_[step.file_group];
  if (--group.running > 0 || !group.cut || group.done) return {};
  group.done = true;
  return {step.file_group};
}

Status StepRunner::FinishFileGroups(const std::vector<uint32_t>& file_groups) {
  for (const uint32_t g : file_groups) MIMO_RETURN_IF_ERROR(FinishFileGroup(g));
  return {};
}

// First, for a large one is not cut, and others go on with steps while it is copied.
Status StepRunner::CarryFiles() {
  const uint64_t bytes = std::min(step_bytes_, CarriedFiles::kChunkBytes);
  while (!workers_.stopped()) {
    const auto file = carried_.Take();
    if (!file) break;
    const Buffer buffer = budget_.Acquire(bytes);
    if (!buffer) return Stopped(bytes);
    MIMO_ASSIGN_OR_RETURN(const CarriedFiles::Counts counts, carried_.Carry(*file, {buffer.data(), bytes}));
    const std::lock_guard lock(mutex_);
    ++(counts.linked ? report_->files_linked : report_->files_written);
    report_->bytes_read += counts.read;
    report_->bytes_written += counts.written;
  }
  return {};
}

Status StepRunner::Work(Backend& backend) {
  MIMO_RETURN_IF_ERROR(CarryFiles());
  while (true) {
    std::optional<Step> step;
    std::vector<uint32_t> finished;
    MIMO_RETURN_IF_ERROR(TakeStep(&step, &finished));
    MIMO_RETURN_IF_ERROR(FinishFileGroups(finished));
    if (!step) return {};
    MIMO_RETURN_IF_ERROR(RunStep(*step, backend));
    MIMO_RETURN_IF_ERROR(FinishFileGroups(StepDone(*step)));
  }
}

// (Fuse group, share) of a step that has one.
std::pair<uint32_t, uint32_t> StepRunner::ShareIn(const Step& step) const {
  return {step.encodes[0].group, ShareOf(job_, step.encodes[0])};
}

// Every measuring step of its share was handed out before `step`, so someone is at work on each. False when the run has
// failed.
bool StepRunner::WaitForMeasure(const Step& step, kernels::Measured* measured) {
  std::unique_lock lock(mutex_);
  const Measure& measure = measures_.at(ShareIn(step));
  measured_.wait(lock, [&] { return measure.running == 0 || workers_.stopped(); });
  *measured = measure.sum;
  return !workers_.stopped();
}

Status StepRunner::RunStep(const Step& step, Backend& backend) {
  kernels::Measured measured;
  EncodeRequest request;
  request.errors = options_.measure_errors;
  if (step.pass == GlobalPass::kMeasured) {
    if (!WaitForMeasure(step, &measured)) return Stopped(0);
    request.measured = &measured;
  }
  const StepWork work(job_, step, std::max(step_bytes_, step.memory_bytes));
  const Buffer buffer = budget_.Acquire(work.buffer_bytes());
  if (!buffer) return Stopped(work.buffer_bytes());
  uint64_t read = 0;
  for (const Extent& extent : work.reads()) {
    MIMO_ASSIGN_OR_RETURN(const auto file, readers_.Get(extent.file));
    const std::span data(buffer.data() + extent.offset, extent.bytes);
    MIMO_RETURN_IF_ERROR(file->ReadAt(extent.begin, data));
    MIMO_RETURN_IF_ERROR(checks_.Add(step.file_group, extent.file, extent.begin, data));
    read += extent.bytes;
  }
  MIMO_ASSIGN_OR_RETURN(StepResult result, work.Transform(buffer.data(), backend, request));
  if (!options_.allow_anomalies) MIMO_RETURN_IF_ERROR(CheckAnomalies(result));
  if (plan_.options.lossless) MIMO_RETURN_IF_ERROR(CheckExact(result));
  uint64_t written = 0;
  for (const WriteJob& write : result.writes) {
    MIMO_ASSIGN_OR_RETURN(const auto file, writers_.Get(write.file));
    MIMO_RETURN_IF_ERROR(file->WriteAt(write.offset, write.data));
    written += write.data.size();
    completion_.Add(write);
  }
  Add(step, result, read, written);
  return {};
}

Status StepRunner::CheckAnomalies(const StepResult& result) const {
  for (const OutputDelta& delta : result.outputs) {
    const kernels::Anomalies& a = delta.anomalies;
    if (a == kernels::Anomalies()) continue;
    Error error = BadInput("values that cannot be converted faithfully into " + plan_.outputs[delta.output].name);
    if (delta.source != kNone) {
      const StoredArray& source = job_.array(delta.source);
      error.file = catalogue_.PathOf(catalogue_.files[source.file]);
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
        .Tensor(plan_.outputs[delta.output].name)
        .Expected("nothing that rounds (--lossless)")
        .Found(std::to_string(delta.inexact_codes) + " codes in the rows read so far")
        .Advice("leave --lossless out");
  }
  for (const EncodeDelta& delta : result.encodes) {
    if (delta.counts.exact_blocks == delta.counts.encoded_blocks) continue;
    const EncodedWeight& weight = plan_.groups[delta.strip.group].encoded[delta.strip.weight];
    return CheckFailed("blocks that cannot become " + EncodingText(weight.encoding) + " without rounding")
        .Tensor(plan_.outputs[weight.codes].name)
        .Expected("nothing that rounds (--lossless)")
        .Found(std::to_string(delta.counts.encoded_blocks - delta.counts.exact_blocks) + " of " +
               std::to_string(delta.counts.encoded_blocks) + " blocks in the rows read so far")
        .Advice("leave --lossless out, or keep these weights");
  }
  return {};
}

void StepRunner::Add(const Step& step, StepResult& result, uint64_t read, uint64_t written) {
  if (options_.progress != nullptr) options_.progress->Advance(step.progress_bytes);
  const std::lock_guard lock(mutex_);
  for (const OutputDelta& delta : result.outputs) {
    *results_->tensors[delta.output].hash += delta.hash;
    results_->tensors[delta.output].anomalies += delta.anomalies;
    results_->tensors[delta.output].counts.inexact_codes += delta.inexact_codes;
  }
  sums_.Add(result, results_);
  if (step.pass == GlobalPass::kMeasure) {
    Measure& measure = measures_.at(ShareIn(step));
    measure.sum += result.measured;
    --measure.running;
    measured_.notify_all();
  }
  report_->bytes_read += read;
  report_->bytes_written += written;
}

// What was counted becomes results; global and input scales, whose weights are made in any order, are written.
Status StepRunner::FoldSums(uint32_t file_group) {
  StepSums::Scalars made;
  {
    const std::lock_guard lock(mutex_);
    sums_.Fold(file_group, results_);
    made = sums_.TakeScalars(file_group);
  }
  for (const auto& [output, values] : made) {
    StepResult result;
    const auto* data = reinterpret_cast<const std::byte*>(values.data());
    result.Emit(job_, output, 0, plan_.outputs[output].rows(), data, kNone, {});
    for (const WriteJob& write : result.writes) {
      MIMO_ASSIGN_OR_RETURN(const auto file, writers_.Get(write.file));
      MIMO_RETURN_IF_ERROR(file->WriteAt(write.offset, write.data));
      completion_.Add(write);
    }
    const std::lock_guard lock(mutex_);
    *results_->tensors[output].hash += result.outputs[0].hash;
    for (const WriteJob& write : result.writes) report_->bytes_written += write.data.size();
  }
  return {};
}

Status StepRunner::FinishFileGroup(uint32_t file_group) {
  uint64_t read = 0;
  MIMO_RETURN_IF_ERROR(checks_.Finish(
      file_group, [this](uint32_t file) { return readers_.Get(file); }, &read));
  {
    const std::lock_guard lock(mutex_);
    report_->bytes_read += read;
  }
  MIMO_RETURN_IF_ERROR(FoldSums(file_group));
  std::vector<std::string> names;
  for (uint32_t f = 0; f < plan_.files.size(); ++f) {
    if (plan_.files[f].file_group != file_group) continue;
    names.push_back(plan_.files[f].name);
    if (results_->linked[f] != 0) {
      MIMO_RETURN_IF_ERROR(files_.CheckLink(plan_.files[f]));
      continue;
    }
    MIMO_ASSIGN_OR_RETURN(auto file, writers_.Get(f));
    MIMO_RETURN_IF_ERROR(completion_.Complete(plan_.files[f], *file));
    MIMO_RETURN_IF_ERROR(files_.Finish(plan_.files[f], *file));
    file.reset();
    MIMO_RETURN_IF_ERROR(writers_.Drop(f));
  }
  MIMO_RETURN_IF_ERROR(SyncDirectories(partial_.fs(), partial_.files(), names));
  for (const uint32_t f : files_read_[file_group]) MIMO_RETURN_IF_ERROR(CheckUnchanged(fs_, catalogue_, f));
  return partial_.WriteRecord(plan_, file_group, *results_);
}

}  // namespace mimo
