// What a step gives: hashes by row, writes that are joined where they continue each other.
#include "lib/run/step_result.h"

#include <gtest/gtest.h>

#include <array>

#include "tests/unit/run/lab.h"

namespace mimo::step_result_test {
namespace {

// One output of 10 rows of 8 bytes from one source.
struct Lab {
  lab::Checkpoint checkpoint;
  lab::PlanBuilder builder{checkpoint};
  std::array<std::byte, 80> data{};

  Lab() {
    checkpoint.AddFile("a.safetensors", {{"w", DType::kBF16, {10, 4}, lab::Random(1).Bf16(40)}});
    builder.File("x.safetensors");
    const uint32_t w = builder.Source("w");
    builder.Output(builder.Group("g"), "w", DType::kBF16, {10, 4}, Transform::kMove, {{w, 0, 0, 10}});
    builder.Finish();
    for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i);
  }
  Job Of(OutputMode mode) const { return {checkpoint.catalogue, builder.plan, {mode}}; }
};

TEST(StepResult, PartsOfAnOutputHashToTheWhole) {
  const Lab lab;
  const Job job = lab.Of(OutputMode::kHashOnly);
  StepResult whole, parts;
  whole.Emit(job, 0, 0, 10, lab.data.data(), 0, {});
  parts.Emit(job, 0, 7, 3, lab.data.data() + 56, 0, {});
  parts.Emit(job, 0, 0, 7, lab.data.data(), 0, {});
  Hash128 sum;
  for (const OutputDelta& delta : parts.outputs) sum += delta.hash;
  EXPECT_EQ(sum, whole.outputs[0].hash);
  EXPECT_TRUE(whole.writes.empty());  // of a linked file
}

TEST(StepResult, WritesThatContinueInTheFileAndInMemoryAreOne) {
  const Lab lab;
  const Job job = lab.Of(OutputMode::kWrite);
  const uint64_t begin = lab.builder.plan.outputs[0].begin;
  StepResult result;
  result.Emit(job, 0, 4, 2, lab.data.data() + 32, 0, {});
  result.Emit(job, 0, 0, 4, lab.data.data(), 0, {});
  result.Emit(job, 0, 6, 2, lab.data.data() + 64, 0, {});  // elsewhere in memory
  result.Emit(job, 0, 9, 1, lab.data.data() + 72, 0, {});  // a gap in the file
  result.MergeWrites();
  ASSERT_EQ(result.writes.size(), 3u);
  EXPECT_EQ(result.writes[0].offset, begin);
  EXPECT_EQ(result.writes[0].data.data(), lab.data.data());
  EXPECT_EQ(result.writes[0].data.size(), 48u);
  EXPECT_EQ(result.writes[1].offset, begin + 48);
  EXPECT_EQ(result.writes[2].offset, begin + 72);
}

}  // namespace
}  // namespace mimo::step_result_test
