#include "lib/run/units.h"

#include <algorithm>
#include <tuple>

#include "lib/decode/row_bytes.h"
#include "lib/run/encode_strips.h"
#include "lib/run/step_memory.h"
#include "lib/run/turns.h"

namespace mimo {
namespace {

// Groups by file group, then by the place of their first output.
std::vector<uint32_t> GroupsInOrder(const Plan& plan) {
  std::vector<std::tuple<uint32_t, uint32_t, uint64_t, uint32_t>> keys;
  for (uint32_t g = 0; g < plan.groups.size(); ++g) {
    std::tuple<uint32_t, uint32_t, uint64_t, uint32_t> key(plan.groups[g].file_group, UINT32_MAX, UINT64_MAX, g);
    for (const uint32_t o : plan.groups[g].outputs)
      key = std::min(key, std::tuple(plan.groups[g].file_group, plan.outputs[o].file, plan.outputs[o].begin, g));
    keys.push_back(key);
  }
  std::sort(keys.begin(), keys.end());
  std::vector<uint32_t> groups;
  groups.reserve(keys.size());
  for (const auto& key : keys) groups.push_back(std::get<3>(key));
  return groups;
}

class Cutter {
 public:
  Cutter(const Job& job, uint64_t unit_bytes)
      : job_{job.catalogue, job.plan, std::vector<OutputMode>(job.plan.outputs.size(), OutputMode::kWrite)},
        unit_bytes_(unit_bytes) {}

  Units Cut() {
    for (const uint32_t g : GroupsInOrder(job_.plan)) {
      if (IsCut(job_, g)) {
        AddItems(g);
      } else {
        AddWhole(g);
      }
    }
    return std::move(units_);
  }

 private:
  // The unit that so many more bytes of a group go to.
  Unit& UnitFor(uint32_t group, uint64_t bytes, uint32_t file) {
    const uint32_t file_group = job_.plan.groups[group].file_group;
    const bool open = !units_.list.empty() && units_.list.back().file_group == file_group &&
                      units_.list.back().output_bytes + bytes <= unit_bytes_;
    if (!open) units_.list.push_back({file_group, file, {}, 0, 0});
    return units_.list.back();
  }

  void AddItems(uint32_t group) {
    uint32_t number = 0;
    for (const ItemSize& item : ItemsOf(job_, group, unit_bytes_)) {
      Unit& unit = UnitFor(group, item.output_bytes, item.file);
      if (unit.parts.empty() || unit.parts.back().group != group) unit.parts.push_back({group, number, number});
      unit.parts.back().end = ++number;
      unit.output_bytes += item.output_bytes;
      unit.cost += item.cost;
      units_.largest_row_bytes = std::max(units_.largest_row_bytes, item.memory);
    }
  }

  void AddWhole(uint32_t group) {
    const FuseGroup& fuse = job_.plan.groups[group];
    uint64_t bytes = 0;
    for (const uint32_t o : fuse.outputs) bytes += job_.plan.outputs[o].end - job_.plan.outputs[o].begin;
    const JobSize size = MeasureGroup(job_, group);
    Unit& unit = UnitFor(group, bytes, fuse.outputs.empty() ? 0 : job_.plan.outputs[fuse.outputs[0]].file);
    unit.parts.push_back({group, 0, kNone});
    unit.output_bytes += bytes;
    unit.cost += size.progress_bytes;
    units_.largest_row_bytes = std::max(units_.largest_row_bytes, size.largest_unit_bytes);
  }

  const Job job_;
  const uint64_t unit_bytes_;
  Units units_;
};

// Joins what overlaps or touches.
std::vector<FileRange> Joined(std::vector<FileRange> ranges) {
  std::sort(ranges.begin(), ranges.end(), [](const FileRange& a, const FileRange& b) {
    return std::tie(a.file, a.begin) < std::tie(b.file, b.begin);
  });
  std::vector<FileRange> joined;
  for (const FileRange& range : ranges) {
    if (range.begin == range.end) continue;
    if (!joined.empty() && joined.back().file == range.file && range.begin <= joined.back().end) {
      joined.back().end = std::max(joined.back().end, range.end);
    } else {
      joined.push_back(range);
    }
  }
  return joined;
}

}  // namespace

Units CutUnits(const Job& job, uint64_t unit_bytes) {
  return Cutter(job, unit_bytes).Cut();
}

std::vector<FileRange> RangesOf(const Job& job, const Unit& unit, PartLoader& loader) {
  std::vector<FileRange> ranges;
  const auto add = [&](uint32_t index, int64_t row, int64_t rows) {
    const OutputArray& output = job.plan.outputs[index];
    const uint64_t begin = output.begin + Rows(row, output.row_bytes());
    ranges.push_back({output.file, begin, begin + Rows(rows, output.row_bytes())});
  };
  for (const UnitPart& part : unit.parts) {
    if (part.whole()) {
      for (const uint32_t o : job.plan.groups[part.group].outputs)
        if (job.modes[o] == OutputMode::kWrite) add(o, 0, job.plan.outputs[o].rows());
      continue;
    }
    const GroupWork work = loader.Load(part);
    for (const RowStrip& bundle : work.bundles)
      for (const RowTarget& target : bundle.targets)
        if (job.modes[target.output] == OutputMode::kWrite) add(target.output, target.row, bundle.rows);
    for (const TurnUnit& turn : work.turns)
      for (const TurnRows& rows : turn.targets)
        if (job.modes[rows.output] == OutputMode::kWrite) add(rows.output, rows.row, rows.rows);
  }
  return Joined(std::move(ranges));
}

uint64_t ProgressOf(const Job& job, const Unit& unit, PartLoader& loader) {
  const auto plain = [&](const UnitPart& part) {
    const std::vector<uint32_t>& outputs = job.plan.groups[part.group].outputs;
    return std::all_of(outputs.begin(), outputs.end(), [&](uint32_t o) { return job.modes[o] == OutputMode::kWrite; });
  };
  if (std::all_of(unit.parts.begin(), unit.parts.end(), plain)) return unit.cost;
  uint64_t bytes = 0;
  for (const UnitPart& part : unit.parts) {
    if (part.whole()) {
      bytes += MeasureGroup(job, part.group).progress_bytes;
      continue;
    }
    const GroupWork work = loader.Load(part);
    for (const RowStrip& bundle : work.bundles) bytes += StripProgress(job, bundle);
    for (const TurnUnit& turn : work.turns) bytes += TurnProgress(job, turn);
  }
  return bytes;
}

}  // namespace mimo
