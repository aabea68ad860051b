// How a plan is cut, and the requests that come of it.
#include "lib/run/steps.h"

#include <gtest/gtest.h>

#include <set>

#include "lib/run/step_work.h"
#include "tests/unit/run/model.h"

namespace mimo::steps_test {
namespace {

Job MakeJob(const lab::Model& model) {
  return {model.catalogue(), model.plan(), std::vector<OutputMode>(model.plan().outputs.size(), OutputMode::kWrite)};
}

TEST(Steps, EveryRowAndCellIsMadeOnceWithinTheLimit) {
  const lab::Model model;
  const Job job = MakeJob(model);
  const JobSize size = lab::MeasureJob(job);
  for (const uint64_t limit : {uint64_t{1} << 30, uint64_t{50'000}, size.largest_unit_bytes, uint64_t{1}}) {
    std::vector<std::set<int64_t>> rows(model.plan().outputs.size());
    std::set<std::pair<uint32_t, uint32_t>> cells;
    uint64_t progress = 0, steps = 0;
    PartLoader loader(job, UINT64_MAX);
    StepCutter cutter(job, loader, limit, uint64_t{1} << 40, lab::AllParts(job.plan));
    uint32_t last = 0;
    while (const auto step = cutter.Next()) {
      ++steps;
      EXPECT_GE(step->file_group, last);
      last = step->file_group;
      progress += step->progress_bytes;
      EXPECT_LE(step->memory_bytes, std::max(limit, size.largest_unit_bytes));
      EXPECT_LE(StepWork(job, *step, limit).buffer_bytes(),
                std::max(limit, step->memory_bytes));  // gaps may use the rest
      for (const RowStrip& strip : step->strips) {
        for (const RowTarget& target : strip.targets) {
          for (int64_t r = 0; r < strip.rows; ++r) EXPECT_TRUE(rows[target.output].insert(target.row + r).second);
        }
      }
      for (const CellJob& cell : step->cells) EXPECT_TRUE(cells.insert({cell.group, cell.cell}).second);
    }
    for (size_t o = 0; o < rows.size(); ++o) {
      const OutputArray& output = model.plan().outputs[o];
      const bool by_cells = output.transform == Transform::kRelayout || output.transform == Transform::kScales;
      EXPECT_EQ(static_cast<int64_t>(rows[o].size()), by_cells ? 0 : output.rows()) << output.name;
    }
    EXPECT_EQ(cells.size(), 3u);
    EXPECT_EQ(progress, size.progress_bytes);
    if (limit == uint64_t{1} << 30) {
      EXPECT_EQ(steps, 3u);  // one per file group
    }
  }
}

TEST(Steps, ReplicatedRowsAreReadOnceHoweverFinelyCut) {
  const lab::Model model;
  const Job job = MakeJob(model);
  std::vector<int> reads(192, 0);
  PartLoader loader(job, UINT64_MAX);
  StepCutter cutter(job, loader, 5'000, uint64_t{1} << 40, lab::AllParts(job.plan));
  while (const auto step = cutter.Next()) {
    for (const RowStrip& strip : step->strips) {
      for (const RowSource& from : strip.sources) {
        if (job.array(from.source).name != "qkv") continue;
        for (int64_t r = 0; r < strip.rows; ++r) ++reads[static_cast<size_t>(from.row + r)];
      }
    }
  }
  EXPECT_EQ(reads, std::vector<int>(192, 1));
}

TEST(Steps, ThousandsOfTinyTensorsAreFewSteps) {
  lab::Checkpoint checkpoint;
  std::vector<lab::Stored> tensors;
  for (int i = 0; i < 3000; ++i)
    tensors.push_back({"t" + std::to_string(10000 + i), DType::kBF16, {4}, lab::Bytes(8, static_cast<uint8_t>(i))});
  checkpoint.AddFile("t.safetensors", tensors);
  lab::PlanBuilder builder(checkpoint);
  builder.UnchangedFile("t.safetensors", 0);
  builder.Finish();
  const Job job{checkpoint.catalogue, builder.plan, std::vector<OutputMode>(3000, OutputMode::kWrite)};
  PartLoader loader(job, UINT64_MAX);
  StepCutter cutter(job, loader, 32 << 20, uint64_t{1} << 40, lab::AllParts(job.plan));
  const auto step = cutter.Next();
  ASSERT_TRUE(step.has_value());
  EXPECT_FALSE(cutter.Next().has_value());
  StepWork work(job, *step, 32 << 20);
  EXPECT_EQ(work.reads().size(), 1u);
  std::vector<std::byte> buffer(work.buffer_bytes());
  auto backend = MakeBackend(DeviceChoice::kCpu, 0, 0);
  const auto result = work.Transform(buffer.data(), **backend);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result.value().writes.size(), 1u);
  EXPECT_EQ(result.value().writes[0].data.size(), 3000u * 8);
}

}  // namespace
}  // namespace mimo::steps_test
