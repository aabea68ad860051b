#include "lib/run/earlier_work.h"

#include <algorithm>
#include <optional>
#include <span>
#include <utility>

#include "lib/base/checked.h"
#include "lib/run/carry.h"

namespace mimo {

uint64_t SpaceNeeded(const Catalogue& catalogue, const Plan& plan, const RunOptions& options,
                     const std::vector<uint8_t>& done) {
  uint64_t needed = 0;
  for (const PlanFile& file : plan.files)
    if (!(options.link != LinkMode::kCopy && file.unchanged) && done[file.file_group] == 0) needed += file.bytes;
  for (const TextFile& text : plan.texts) needed += text.content.size();
  for (const CarriedFile& file : catalogue.carried) {
    if (CarriedFiles::Links(file.name, options)) continue;
    if (std::find(plan.carried.begin(), plan.carried.end(), file.name) != plan.carried.end()) needed += file.bytes;
  }
  return needed;
}

Status EarlierWork::Load() {
  return LoadShare(0, static_cast<uint32_t>(recorded_.size()));
}

Status EarlierWork::LoadShare(uint32_t first, uint32_t end) {
  MIMO_RETURN_IF_ERROR(LoadGroups());
  // What is made in this run starts from zero; tensors that are linked and not read keep no hash.
  for (size_t o = 0; o < run_.plan.outputs.size(); ++o)
    if (run_.job.modes[o] != OutputMode::kSkip) run_.results.tensors[o].hash = Hash128();
  MIMO_RETURN_IF_ERROR(LoadUnits(first, end));
  return CheckAnomalies();
}

Status EarlierWork::LoadGroups() {
  const RecordNeeds needs{run_.options.hash_linked, run_.options.measure_errors};
  for (uint32_t g = 0; g < run_.plan.file_groups; ++g) {
    MIMO_ASSIGN_OR_RETURN(const bool done, run_.partial.LoadRecord(run_.plan, g, needs, &run_.results));
    done_[g] = done ? 1 : 0;
    run_.report.groups_resumed += done ? 1 : 0;
  }
  for (const PlanFile& file : run_.plan.files) {
    if (!IsDone(file.file_group)) continue;
    for (const uint32_t o : file.outputs) run_.job.modes[o] = OutputMode::kSkip;
  }
  return {};
}

// A unit is in files; they are those that it wrote to, or it is nowhere.
Result<bool> EarlierWork::HoldsFiles(const UnitRecord& record) const {
  for (const auto& [file, written] : record.files) {
    if (run_.results.linked[file] != 0) continue;
    MIMO_ASSIGN_OR_RETURN(const auto now, Look(run_.partial.fs(), run_.partial.FilePath(run_.plan.files[file].name)));
    if (!now || !written.Is(*now)) return false;
  }
  return true;
}

Status EarlierWork::LoadUnits(uint32_t first, uint32_t end) {
  MIMO_ASSIGN_OR_RETURN(stored_, run_.records.Numbers());
  const RecordNeeds needs{run_.options.hash_linked, run_.options.measure_errors};
  for (const uint32_t number : stored_) {
    if (number >= recorded_.size() || IsDone(run_.units.list[number].file_group)) continue;
    if (number < first || number >= end) {  // another part's, which looks at it
      recorded_[number] = 1;
      ++run_.report.units_resumed;
      continue;
    }
    MIMO_ASSIGN_OR_RETURN(const auto record, run_.records.Load(number, needs, run_.results.linked));
    if (!record) continue;
    MIMO_ASSIGN_OR_RETURN(const bool holds, HoldsFiles(*record));
    if (!holds) continue;
    recorded_[number] = 1;
    if (!record->result.edges.empty()) with_edges_.push_back(number);
    ++run_.report.units_resumed;
    for (const auto& [file, written] : record->files)
      if (run_.results.linked[file] == 0) kept_[file] = written;
    MergeInto(record->result, &run_.results);
    for (const auto& [output, crc] : record->result.crcs) run_.completion.Add({output, crc});
    for (const ItemRead& read : record->result.items) MIMO_RETURN_IF_ERROR(run_.checks.Restore(read));
  }
  for (const auto& [file, written] : kept_) run_.partial.TakeNote(run_.plan.files[file].name, written);
  return {};
}

Status EarlierWork::CheckAnomalies() const {
  for (const TensorResult& tensor : run_.results.tensors) {
    if (run_.options.allow_anomalies || tensor.anomalies == kernels::Anomalies()) continue;
    // not bad input: that would throw away what was made on purpose
    return UsageError("the partial output holds values that --allow-anomalies let through")
        .File(run_.partial.path())
        .Advice("repeat --allow-anomalies, or start again with --overwrite");
  }
  return {};
}

Status EarlierWork::LoadOwn(uint32_t first, uint32_t end) {
  MIMO_RETURN_IF_ERROR(LoadShare(first, end));
  std::vector<uint32_t> dropped;
  for (const uint32_t number : stored_)
    if (number >= first && number < end && recorded_[number] == 0) dropped.push_back(number);
  return run_.records.Drop(dropped);
}

Status EarlierWork::Prepare() {
  MIMO_RETURN_IF_ERROR(run_.partial.claim().Confirm());
  MIMO_RETURN_IF_ERROR(run_.partial.DropFiles());
  std::vector<uint32_t> kept, dropped;
  for (uint32_t g = 0; g < run_.plan.file_groups; ++g)
    if (IsDone(g)) kept.push_back(g);
  for (const uint32_t number : stored_)
    if (number >= recorded_.size() || recorded_[number] == 0) dropped.push_back(number);
  MIMO_RETURN_IF_ERROR(run_.partial.DropRecords(kept));
  MIMO_RETURN_IF_ERROR(run_.records.Drop(dropped));
  const std::vector<PlanFile>& files = run_.plan.files;
  for (uint32_t f = 0; f < files.size(); ++f)
    if (!IsDone(files[f].file_group) && !kept_.contains(f))
      MIMO_RETURN_IF_ERROR(run_.partial.fs().RemoveAll(run_.partial.FilePath(files[f].name)));
  MIMO_RETURN_IF_ERROR(CheckSpace());
  std::vector<std::string> made;
  for (uint32_t f = 0; f < files.size(); ++f) {
    const bool linked = run_.results.linked[f] != 0;
    ++(linked ? run_.report.files_linked : run_.report.files_written);
    if (!linked && (IsDone(files[f].file_group) || kept_.contains(f))) continue;
    if (linked && IsDone(files[f].file_group)) {
      MIMO_ASSIGN_OR_RETURN(const bool stands, run_.files.StandsAsLink(files[f]));
      if (stands) continue;  // a link that is made anew is not the one that the record vouches for
    }
    MIMO_RETURN_IF_ERROR(run_.files.Make(files[f], linked));
    made.push_back(files[f].name);
  }
  // What a unit's record vouches for must be found under its name.
  std::vector<uint32_t> units_of(run_.plan.file_groups, 0);
  bool records_units = run_.options.part.has_value();
  for (const Unit& unit : run_.units.list) records_units |= ++units_of[unit.file_group] > 1;
  return records_units ? SyncDirectories(run_.partial.fs(), run_.partial.files(), made) : Status();
}

// A file that is gone on with holds its space already, whatever of it is recorded; one that is compressed holds less
// than what it keeps.
Result<uint64_t> EarlierWork::SpaceLeft() const {
  const uint64_t needed = SpaceNeeded(run_.catalogue, run_.plan, run_.options, done_);
  uint64_t recorded = 0, held = 0;
  for (size_t u = 0; u < recorded_.size(); ++u)
    if (recorded_[u] != 0) recorded += run_.units.list[u].output_bytes;
  for (const auto& [file, written] : kept_) {
    MIMO_ASSIGN_OR_RETURN(const auto info, run_.partial.fs().Stat(run_.partial.FilePath(run_.plan.files[file].name)));
    if (info && !IsDone(run_.plan.files[file].file_group)) held += std::min(info->allocated, written.bytes);
  }
  return needed - std::min(needed, std::max(recorded, held));
}

Status EarlierWork::CheckSpace() const {
  MIMO_ASSIGN_OR_RETURN(const uint64_t needed, SpaceLeft());
  MIMO_ASSIGN_OR_RETURN(const uint64_t available, run_.partial.fs().FreeBytes(kPartialDirectory));
  if (needed <= available) return {};
  return IoError("not enough free space for the output")
      .File(run_.options.output)
      .Expected(FormatBytes(needed))
      .Found(FormatBytes(available))
      .Advice(
          "free some space and run again with --resume, choose another file system, or use --link for unchanged files");
}

std::vector<uint8_t> EarlierWork::open() const {
  std::vector<uint8_t> open;
  for (const uint8_t done : done_) open.push_back(done == 0 ? 1 : 0);
  return open;
}

Status EarlierWork::WriteEdges() {
  const RecordNeeds needs{run_.options.hash_linked, run_.options.measure_errors};
  for (const uint32_t number : with_edges_) {
    MIMO_ASSIGN_OR_RETURN(const auto record, run_.records.Load(number, needs, run_.results.linked));
    if (!record)
      return IoError("the record of a unit has disappeared")
          .File(run_.partial.path())
          .Advice("run again with --resume");
    for (const EdgeBytes& edge : record->result.edges) {
      MIMO_ASSIGN_OR_RETURN(const auto file, run_.writers.Get(edge.file));
      MIMO_RETURN_IF_ERROR(file->WriteAt(edge.offset, std::as_bytes(std::span(edge.bytes))));
    }
  }
  return {};
}

std::vector<uint32_t> EarlierWork::Left(uint32_t first, uint32_t end) const {
  std::vector<uint32_t> left;
  for (uint32_t u = first; u < end; ++u) {
    const Unit& unit = run_.units.list[u];
    if (recorded_[u] != 0 || IsDone(unit.file_group)) continue;
    if (mimo::ProgressOf(run_.job, unit, run_.loader) > 0) left.push_back(u);
  }
  return left;
}

ProgressTotals EarlierWork::ProgressOf(uint32_t first, uint32_t end) const {
  ProgressTotals totals;
  const std::vector<uint32_t> left = Left(first, end);
  for (uint32_t u = first; u < end; ++u) {
    const Unit& unit = run_.units.list[u];
    const bool before = recorded_[u] != 0 || IsDone(unit.file_group);
    if (!before && !std::binary_search(left.begin(), left.end(), u)) continue;
    totals.bytes += unit.output_bytes;
    totals.bytes_before += before ? unit.output_bytes : 0;
    ++totals.units;
    totals.units_before += before ? 1 : 0;
  }
  if (run_.options.part) return totals;
  for (size_t f = 0; f < run_.plan.files.size(); ++f) {
    if (run_.results.linked[f] != 0) continue;
    ++totals.files;
    totals.files_before += IsDone(run_.plan.files[f].file_group) ? 1 : 0;
  }
  return totals;
}

Result<std::vector<size_t>> EarlierWork::Unseen(UnitRecords::Looked at, size_t first, size_t end, size_t of) const {
  std::vector<size_t> left;
  if (first >= end) return left;
  MIMO_ASSIGN_OR_RETURN(const auto seen, run_.records.LoadLooked(at, of));
  for (size_t entry = first; entry < end; ++entry)
    if (std::none_of(seen.begin(), seen.end(),
                     [&](const auto& range) { return range.first <= entry && entry < range.second; }))
      left.push_back(entry);
  return left;
}

}  // namespace mimo
