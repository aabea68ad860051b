// How a plan is cut into units.
#include "lib/run/units.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "lib/run/lanes.h"
#include "tests/unit/run/model.h"

namespace mimo::units_test {
namespace {

Job AllWritten(const lab::Model& model) {
  return {model.catalogue(), model.plan(), std::vector<OutputMode>(model.plan().outputs.size(), OutputMode::kWrite)};
}

// By byte of each file: how many units write it.
using Coverage = std::map<uint32_t, std::vector<int>>;

Coverage CoverageOf(const Job& job, const std::vector<Unit>& units, PartLoader& loader) {
  Coverage coverage;
  for (uint32_t f = 0; f < job.plan.files.size(); ++f) coverage[f].assign(job.plan.files[f].bytes, 0);
  for (const Unit& unit : units)
    for (const FileRange& range : RangesOf(job, unit, loader))
      for (uint64_t at = range.begin; at < range.end; ++at) ++coverage[range.file][at];
  return coverage;
}

TEST(Units, WriteEveryByteOfEveryArrayOnce) {
  const lab::Model model;
  const Job job = AllWritten(model);
  for (const uint64_t bytes : {1ull, 700ull, 5'000ull, 30'000ull, 1ull << 40}) {
    PartLoader loader(job, bytes);
    const Coverage coverage = CoverageOf(job, CutUnits(job, bytes).list, loader);
    for (const OutputArray& output : job.plan.outputs)
      for (uint64_t at = output.begin; at < output.end; ++at)
        ASSERT_EQ(coverage.at(output.file)[at], 1) << bytes << " " << output.name << " " << at;
    for (const PlanFile& file : job.plan.files)
      for (uint64_t at = 0; at < file.header.size(); ++at)
        ASSERT_EQ(coverage.at(job.plan.outputs[file.outputs[0]].file)[at], 0);
  }
}

TEST(Units, AreOfTheSizeThatWasAskedForUnlessRowsOrGridsAreLarger) {
  const lab::Model model;
  const Job job = AllWritten(model);
  for (const uint64_t bytes : {700ull, 5'000ull, 30'000ull}) {
    const Units units = CutUnits(job, bytes);
    uint64_t total = 0;
    for (const Unit& unit : units.list) {
      total += unit.output_bytes;
      EXPECT_GT(unit.cost, unit.output_bytes);
      if (unit.output_bytes <= bytes) continue;
      const bool whole = unit.parts.size() == 1 && unit.parts[0].whole();  // the relaid group
      const bool row = unit.parts.size() == 1 && unit.parts[0].end == unit.parts[0].first + 1 &&
                       unit.output_bytes <= 2 * 130 * 2 + 130 * 4;  // one row of q and two of k
      EXPECT_TRUE(whole || row) << bytes << ": " << unit.output_bytes;
    }
    EXPECT_EQ(total, job.plan.payload_bytes);
    if (bytes == 5'000) {
      EXPECT_GT(units.list.size(), 20u);
    }
  }
}

// Neither what is linked nor what is complete moves a border.
TEST(Units, AreTheSameWhateverIsSkipped) {
  const lab::Model model;
  const Job all = AllWritten(model);
  Job some = all;
  some.modes[0] = OutputMode::kSkip;
  some.modes.back() = OutputMode::kHashOnly;
  const Units a = CutUnits(all, 3'000), b = CutUnits(some, 3'000);
  ASSERT_EQ(a.list.size(), b.list.size());
  PartLoader loader(some, 3'000);
  for (size_t u = 0; u < a.list.size(); ++u) {
    ASSERT_EQ(a.list[u].parts.size(), b.list[u].parts.size());
    EXPECT_EQ(a.list[u].cost, b.list[u].cost);
    for (size_t p = 0; p < a.list[u].parts.size(); ++p) {
      EXPECT_EQ(a.list[u].parts[p].first, b.list[u].parts[p].first);
      EXPECT_EQ(a.list[u].parts[p].end, b.list[u].parts[p].end);
    }
  }
  const Coverage coverage = CoverageOf(some, b.list, loader);
  for (uint32_t o = 0; o < all.plan.outputs.size(); ++o) {
    const OutputArray& output = all.plan.outputs[o];
    for (uint64_t at = output.begin; at < output.end; ++at)
      ASSERT_EQ(coverage.at(output.file)[at], some.modes[o] == OutputMode::kWrite ? 1 : 0) << output.name;
  }
}

// The parts of a group come as they lie in the files.
TEST(Units, FollowTheOutputFiles) {
  const lab::Model model;
  const Job job = AllWritten(model);
  PartLoader loader(job, 4'000);
  std::map<uint32_t, std::pair<uint32_t, uint64_t>> last;  // by group
  size_t parts = 0;
  for (const Unit& unit : CutUnits(job, 4'000).list) {
    uint32_t home = kNone;
    for (const UnitPart& part : unit.parts) {
      const std::vector<FileRange> ranges = RangesOf(job, {unit.file_group, 0, {part}, 0, 0}, loader);
      ASSERT_FALSE(ranges.empty());
      const std::pair<uint32_t, uint64_t> first(ranges[0].file, ranges[0].begin);
      EXPECT_GE(first, last[part.group]);
      last[part.group] = first;
      home = std::min(home, ranges[0].file);
      ++parts;
    }
    EXPECT_EQ(unit.home, home);
  }
  EXPECT_GT(parts, 20u);
}

// Workers take all steps of all units, and none twice; each begins in a file of its own while there is one.
TEST(Lanes, HandOutEveryStepOnce) {
  const lab::Model model;
  const Job job = AllWritten(model);
  const std::vector<Unit> units = CutUnits(job, 4'000).list;
  PartLoader loader(job, 4'000);
  std::vector<uint32_t> numbers(units.size());
  for (uint32_t u = 0; u < units.size(); ++u) numbers[u] = u;
  for (const int workers : {1, 3, 7}) {
    Lanes lanes(job, loader, units, numbers, 2'000, 1 << 30, workers, workers);
    std::set<uint32_t> homes, complete;
    uint64_t progress = 0, output = 0;
    for (int round = 0, idle = 0; idle < workers; ++round) {
      const auto work = lanes.Take(round % workers);
      if (!work) {
        ++idle;
        continue;
      }
      if (round < std::min(workers, 3)) homes.insert(work->unit->unit().home);
      progress += work->step.progress_bytes;
      uint64_t bytes = 0;
      if (work->unit->Add(work->step, {}, {}, &bytes)) {
        EXPECT_TRUE(complete.insert(work->unit->number()).second);
      }
      output += bytes;
    }
    EXPECT_EQ(homes.size(), static_cast<size_t>(std::min(workers, 3)));  // there are three files
    EXPECT_EQ(complete.size(), units.size());
    EXPECT_EQ(progress, lab::MeasureJob(job).progress_bytes);
    EXPECT_EQ(output, job.plan.payload_bytes);
  }
}

// So that no long one is left to the end, for all to write into.
TEST(Lanes, BeginWithTheLongest) {
  const lab::Model model;
  const Job job = AllWritten(model);
  const std::vector<Unit> units = CutUnits(job, 4'000).list;
  PartLoader loader(job, 4'000);
  std::vector<uint32_t> numbers;
  std::map<uint32_t, uint64_t> costs;  // by file
  for (uint32_t u = 0; u < units.size(); ++u) {
    if (units[u].home == units[0].home && u != 0) continue;  // of the first file most is there already
    numbers.push_back(u);
    costs[units[u].home] += units[u].cost;
  }
  std::vector<std::pair<uint64_t, uint32_t>> longest;
  for (const auto& [home, cost] : costs) longest.emplace_back(cost, home);
  std::sort(longest.rbegin(), longest.rend());
  ASSERT_NE(longest[0].second, units[0].home);
  Lanes lanes(job, loader, units, numbers, 2'000, 1 << 30, 2, 2);
  for (int worker = 0; worker < 2; ++worker) {
    const auto work = lanes.Take(worker);
    ASSERT_TRUE(work);
    EXPECT_EQ(work->unit->unit().home, longest[static_cast<size_t>(worker)].second);
  }
}

}  // namespace
}  // namespace mimo::units_test
