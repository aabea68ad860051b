#include "lib/run/unit_keeper.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "lib/run/sources.h"
#include "lib/run/write_out.h"

namespace mimo {

UnitKeeper::UnitKeeper(RunState& run, const std::vector<uint32_t>& left)
    : run_(run), files_read_(FilesReadBy(run.catalogue, run.plan)), left_in_(run.plan.file_groups, 0) {
  for (const uint32_t u : left)
    if (left_in_[run.units.list[u].file_group]++ == 0) ++open_groups_;
}

Status UnitKeeper::FinishEmpty(const std::vector<uint8_t>& wanted) {
  for (uint32_t g = 0; g < run_.plan.file_groups; ++g)
    if (wanted[g] != 0 && left_in_[g] == 0) MIMO_RETURN_IF_ERROR(FinishFileGroup(g));
  return {};
}

// One is kept beside the work at a time: so no more units are begun and not on the disk than there are workers, and
// one.
Status UnitKeeper::Add(std::shared_ptr<UnitRun> unit) {
  {
    const std::lock_guard lock(mutex_);
    if (cancelled_) return {};
    if (served_ && waiting_ == nullptr && !serving_) {
      waiting_ = std::move(unit);
      changed_.notify_all();
      return {};
    }
  }
  return Keep(*unit);
}

Status UnitKeeper::Drain() {
  std::shared_ptr<UnitRun> unit;
  {
    const std::lock_guard lock(mutex_);
    if (cancelled_) return {};
    unit = std::move(waiting_);
  }
  return unit != nullptr ? Keep(*unit) : Status();
}

Status UnitKeeper::Serve() {
  while (true) {
    std::shared_ptr<UnitRun> unit;
    {
      std::unique_lock lock(mutex_);
      served_ = true;
      serving_ = false;
      changed_.wait(lock, [&] { return waiting_ != nullptr || open_groups_ == 0 || cancelled_; });
      if (waiting_ == nullptr || cancelled_) return {};
      unit = std::move(waiting_);
      serving_ = true;
    }
    MIMO_RETURN_IF_ERROR(Keep(*unit));
  }
}

void UnitKeeper::Cancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  changed_.notify_all();
}

bool UnitKeeper::complete() const {
  const std::lock_guard lock(mutex_);
  return open_groups_ == 0;
}

std::pair<uint64_t, uint64_t> UnitKeeper::kept() const {
  const std::lock_guard lock(mutex_);
  return {kept_, kept_bytes_};
}

Status UnitKeeper::Keep(UnitRun& unit) {
  MIMO_RETURN_IF_ERROR(WriteScalars(unit));
  UnitOutcome result = unit.Fold();
  result.items = run_.checks.TakeReads(unit.number());
  {
    const std::lock_guard lock(run_.mutex);
    MergeInto(result, &run_.results);
    run_.report.groups_read_twice += unit.read_twice();
  }
  for (const auto& [output, crc] : result.crcs) run_.completion.Add({output, crc});
  const uint32_t file_group = unit.unit().file_group;
  // The last one needs no record of its own: that of its file group follows at once. A part leaves file groups to
  // whoever joins.
  const bool part = run_.own_pages.has_value();
  if (part || LeftIn(file_group) > 1) MIMO_RETURN_IF_ERROR(Record(unit, result));
  if (run_.options.progress != nullptr) run_.options.progress->UnitDone();
  if (Kept(unit.unit()) > 0) return {};
  if (!part) MIMO_RETURN_IF_ERROR(FinishFileGroup(file_group));
  const std::lock_guard lock(mutex_);
  --open_groups_;
  changed_.notify_all();
  return {};
}

uint32_t UnitKeeper::LeftIn(uint32_t file_group) const {
  const std::lock_guard lock(mutex_);
  return left_in_[file_group];
}

// How many are left in its file group now.
uint32_t UnitKeeper::Kept(const Unit& unit) {
  const std::lock_guard lock(mutex_);
  ++kept_;
  kept_bytes_ += unit.output_bytes;
  return --left_in_[unit.file_group];
}

// Global and input scales, whose weights are made in any order.
Status UnitKeeper::WriteScalars(UnitRun& unit) {
  for (const auto& [output, values] : unit.TakeScalars()) {
    StepResult made;
    const auto* data = reinterpret_cast<const std::byte*>(values.data());
    made.Emit(run_.job, output, 0, run_.plan.outputs[output].rows(), data, kNone, {});
    MIMO_ASSIGN_OR_RETURN(const uint64_t written, WriteOut(run_, unit, made));
    unit.AddScalars(made);
    const std::lock_guard lock(run_.mutex);
    run_.report.bytes_written += written;
  }
  return {};
}

// The record follows the data to the disk.
Status UnitKeeper::Record(UnitRun& unit, const UnitOutcome& result) {
  std::set<uint32_t> files;
  for (const uint32_t o : result.results.outputs)
    if (run_.results.linked[run_.plan.outputs[o].file] == 0) files.insert(run_.plan.outputs[o].file);
  for (const uint32_t f : files) {
    MIMO_ASSIGN_OR_RETURN(const auto file, run_.writers.Get(f));
    MIMO_RETURN_IF_ERROR(file->Sync());
  }
  for (const uint32_t f : unit.files_read()) MIMO_RETURN_IF_ERROR(CheckUnchanged(run_.fs, run_.catalogue, f));
  return run_.records.Write(unit.number(), result, run_.results.linked);
}

Status UnitKeeper::FinishFileGroup(uint32_t file_group) {
  uint64_t read = 0;
  MIMO_RETURN_IF_ERROR(run_.checks.Finish(
      file_group, [this](uint32_t file) { return run_.readers.Get(file); }, &read));
  {
    const std::lock_guard lock(run_.mutex);
    run_.report.bytes_read += read;
  }
  std::vector<std::string> names;
  for (uint32_t f = 0; f < run_.plan.files.size(); ++f) {
    if (run_.plan.files[f].file_group != file_group) continue;
    names.push_back(run_.plan.files[f].name);
    if (run_.results.linked[f] != 0) {
      MIMO_RETURN_IF_ERROR(run_.files.CheckLink(run_.plan.files[f]));
      continue;
    }
    MIMO_ASSIGN_OR_RETURN(auto file, run_.writers.Get(f));
    MIMO_RETURN_IF_ERROR(run_.completion.Complete(run_.plan.files[f], *file));
    MIMO_RETURN_IF_ERROR(run_.files.Finish(run_.plan.files[f], *file));
    file.reset();
    MIMO_RETURN_IF_ERROR(run_.writers.Drop(f));
    if (run_.options.progress != nullptr) run_.options.progress->FileDone();
  }
  MIMO_RETURN_IF_ERROR(SyncDirectories(run_.partial.fs(), run_.partial.files(), names));
  for (const uint32_t f : files_read_[file_group]) MIMO_RETURN_IF_ERROR(CheckUnchanged(run_.fs, run_.catalogue, f));
  return run_.partial.WriteRecord(run_.plan, file_group, run_.results);
}

}  // namespace mimo
