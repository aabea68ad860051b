// Outputs, rooms and sources of a step lie apart in its buffer, and each is found where it was placed.
#include "lib/run/step_layout.h"

#include <gtest/gtest.h>

#include "tests/unit/run/model.h"

namespace mimo::step_layout_test {
namespace {

TEST(StepLayout, NothingOverlapsAndEverythingIsFound) {
  const lab::Model model;
  const Job job{model.catalogue(), model.plan(),
                std::vector<OutputMode>(model.plan().outputs.size(), OutputMode::kWrite)};
  const auto qkv = static_cast<uint32_t>(
      std::find_if(job.plan.sources.begin(), job.plan.sources.end(), [](const SourceArray& s) { return s.quantized; }) -
      job.plan.sources.begin());
  StepLayout layout(job);
  layout.Make(0, 3, 2);
  layout.AddRoom(100);
  layout.AddRoom(0);
  layout.AddRoom(7);
  layout.Read(qkv, 60, 10);  // across the edge of a block
  layout.ReadScales(qkv, 60, 10);
  layout.Place(1 << 20);

  std::vector<std::byte> data(layout.buffer_bytes());
  const StepBuffer buffer(layout, data.data());
  const uint64_t made = job.plan.outputs[0].row_bytes();
  EXPECT_EQ(buffer.Output(0, 4), buffer.Output(0, 3) + made);
  EXPECT_GE(buffer.Room(0), buffer.Output(0, 4) + made);
  EXPECT_EQ((buffer.Room(0) - data.data()) % 64, 0);
  EXPECT_EQ(buffer.Room(1), nullptr);
  EXPECT_GE(buffer.Room(2), buffer.Room(0) + 100);
  const uint64_t row = buffer.RowBytes(qkv);
  const uint32_t scale = buffer.sources()[qkv].scale;
  for (const std::byte* read : {buffer.Row(qkv, 60), buffer.Row(scale, 0)}) EXPECT_GE(read, buffer.Room(2) + 7);
  EXPECT_EQ(buffer.Row(qkv, 69), buffer.Row(qkv, 60) + 9 * row);
  EXPECT_LE(buffer.Row(qkv, 69) + row, data.data() + data.size());
  EXPECT_EQ(buffer.Row(scale, 1), buffer.Row(scale, 0) + buffer.RowBytes(scale));
}

// Whole blocks around what is read and written are a wish: a step that fits as it is fits with them.
TEST(StepLayout, WholeBlocksKeepToTheLimit) {
  const lab::Model model(4096, 130);
  const Job job{model.catalogue(), model.plan(),
                std::vector<OutputMode>(model.plan().outputs.size(), OutputMode::kWrite)};
  const auto qkv = static_cast<uint32_t>(
      std::find_if(job.plan.sources.begin(), job.plan.sources.end(), [](const SourceArray& s) { return s.quantized; }) -
      job.plan.sources.begin());
  const auto place = [&](uint64_t limit, DirectSides direct) {
    StepLayout layout(job);
    layout.Make(0, 1, 2000);
    layout.AddRoom(10);
    layout.Read(qkv, 3, 1999);
    layout.ReadScales(qkv, 3, 1999);
    layout.Place(limit, direct);
    return layout.buffer_bytes();
  };
  const uint64_t least = place(0, {}), most = place(1 << 30, {true, true});
  ASSERT_GT(most, least + 4096);
  for (uint64_t limit = least; limit < most; limit += 512)
    for (const DirectSides direct : {DirectSides{true, true}, DirectSides{false, true}, DirectSides{true, false}})
      EXPECT_LE(place(limit, direct), limit);
}

}  // namespace
}  // namespace mimo::step_layout_test
