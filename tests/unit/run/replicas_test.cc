// Replicas must be equal, or nothing is published.
#include "lib/run/replicas.h"

#include <gtest/gtest.h>

#include "lib/run/executor.h"
#include "tests/unit/run/lab.h"

namespace mimo::replicas_test {
namespace {

using lab::Bytes;

// Two ranks that each hold a matrix, at different rows, of which the output takes the first.
struct Ranks {
  static constexpr size_t kShift = 44;
  lab::Checkpoint checkpoint;
  lab::PlanBuilder builder{checkpoint};
  Bytes matrix = lab::Random(5).Bf16(1 << 16);

  explicit Ranks(const std::vector<size_t>& flipped = {}) {
    Bytes other = lab::Random(6).Bf16(kShift * 256);
    other.insert(other.end(), matrix.begin(), matrix.end());
    for (const size_t row : flipped) other[(kShift + row) * 512 + 511] ^= 1;
    checkpoint.AddFile("rank0.safetensors", {{"w0", DType::kBF16, {256, 256}, matrix}});
    checkpoint.AddFile("rank1.safetensors", {{"w1", DType::kBF16, {300, 256}, other}});
    builder.File("x.safetensors");
    const uint32_t a = builder.Source("w0"), b = builder.Source("w1");
    builder.Output(builder.Group("g"), "w", DType::kBF16, {256, 256}, Transform::kMove, {{a, 0, 0, 256}});
    builder.plan.equal = {{a, b, 0, kShift, 100}, {a, b, 100, kShift + 100, 156}};
    builder.Finish();
  }
};

TEST(Replicas, ThatAreEqualAreReadAndNothingElseHappens) {
  const Ranks lab;
  RunOptions options;
  options.output = lab.checkpoint.output();
  const auto report = RunPlan(PosixFileSystem(), lab.checkpoint.catalogue, lab.builder.plan, options);
  ASSERT_TRUE(report.ok()) << report.error().Message();
  EXPECT_EQ(report.value().bytes_read, 3 * lab.matrix.size());
  EXPECT_EQ(lab::Tensor(JoinPath(options.output, "x.safetensors"), "w"), lab.matrix);
}

TEST(Replicas, ThatDifferAreRefusedByNameAndRowAndNothingIsPublished) {
  for (const size_t row : {size_t{3}, size_t{99}, size_t{100}, size_t{254}}) {
    const Ranks lab({row, 255});
    RunOptions options;
    options.output = lab.checkpoint.output();
    for (const int threads : {1, 3}) {
      for (const uint64_t memory : {1ull << 20, 20'000ull}) {
        options.threads = threads;
        options.memory_bytes = memory;
        const auto report = RunPlan(PosixFileSystem(), lab.checkpoint.catalogue, lab.builder.plan, options);
        ASSERT_FALSE(report.ok());
        EXPECT_EQ(report.error().code, ErrorCode::kBadInput);
        const std::string text = report.error().Message();
        for (const std::string& part :
             {std::string(" w0 "), std::string("tensor w1"), std::string("rank0.safetensors"),
              std::string("rank1.safetensors"), "row " + std::to_string(row) + " ",
              "row " + std::to_string(Ranks::kShift + row) + " ", std::string("copy them again")}) {
          EXPECT_NE(text.find(part), std::string::npos) << text;
        }
        EXPECT_TRUE(lab::Tree(options.output).empty());
      }
    }
  }
}

TEST(Replicas, AreComparedAgainWhenARunIsContinued) {
  Ranks lab;
  RunOptions options;
  options.output = lab.checkpoint.output();
  std::atomic<int> stop{15};
  options.stop = &stop;
  const auto stopped = RunPlan(PosixFileSystem(), lab.checkpoint.catalogue, lab.builder.plan, options);
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code, ErrorCode::kInterrupted);
  // Meanwhile a rank is overwritten.
  Bytes file = lab::ReadFile(lab.checkpoint.path("rank1.safetensors"));
  file.back() ^= 1;
  lab::WriteFile(lab.checkpoint.path("rank1.safetensors"), file);
  options.stop = nullptr;
  options.resume = true;
  const auto resumed = RunPlan(PosixFileSystem(), lab.checkpoint.catalogue, lab.builder.plan, options);
  ASSERT_FALSE(resumed.ok());
  EXPECT_EQ(resumed.error().code, ErrorCode::kBadInput);
}

}  // namespace
}  // namespace mimo::replicas_test
