// The bytes of an output depend on the plan alone.
#include <gtest/gtest.h>

#include "lib/run/executor.h"
#include "tests/unit/run/model.h"

namespace mimo::executor_determinism_test {
namespace {

TEST(Determinism, ThreadsMemoryAndUnitsChangeNothingButTime) {
  const lab::Model model;
  RunOptions options;
  options.output = model.checkpoint.output();
  options.threads = 1;
  std::map<std::string, lab::Bytes> first;
  for (const int threads : {1, 4}) {
    for (const auto& [memory, unit] : {std::pair(64ull << 20, 0ull), std::pair(100'000ull, 5'000ull),
                                       std::pair(60'000ull, 1ull), std::pair(64ull << 20, 20'000ull)}) {
      options.threads = threads;
      options.unit_bytes = unit;
      options.memory_bytes = memory;
      options.overwrite = !first.empty();
      const auto report = RunPlan(PosixFileSystem(), model.catalogue(), model.plan(), options);
      ASSERT_TRUE(report.ok()) << report.error().Message();
      const auto tree = lab::Tree(options.output);
      if (first.empty()) first = tree;
      EXPECT_EQ(tree, first) << threads << " threads, " << memory << " bytes, units of "
                             << unit;  // the manifest included
      EXPECT_EQ(report.value().blocks.moved_blocks, 2u);
      EXPECT_EQ(report.value().blocks.requantized_blocks, 4u);
    }
  }
  EXPECT_EQ(first.size(), 8u);
}

TEST(Determinism, AnomaliesAreCountedAlikeHoweverRowsAreCut) {
  lab::Random random(11);
  lab::Bytes codes = random.Codes(200 * 130), scales = random.Scales(4);
  codes[5] = 0x7F;
  codes[199 * 130] = 0xFF;
  const float bad = -1.0f;
  std::memcpy(&scales[4], &bad, 4);
  lab::Checkpoint checkpoint;
  checkpoint.AddFile("w.safetensors",
                     {{"w", DType::kF8E4M3, {200, 130}, codes}, {"w_scale_inv", DType::kF32, {2, 2}, scales}});
  lab::PlanBuilder builder(checkpoint);
  builder.File("w.safetensors");
  const uint32_t w = builder.Quantized("w", "w_scale_inv");
  builder.Output(builder.Group("g"), "w", DType::kBF16, {200, 130}, Transform::kConvert, {{w, 0, 0, 200}});
  builder.Finish();
  RunOptions options;
  options.output = checkpoint.output();
  options.allow_anomalies = true;
  for (const uint64_t memory : {1ull << 20, 30'000ull, 2'000ull}) {
    options.memory_bytes = memory;
    options.overwrite = std::filesystem::exists(options.output);
    const auto report = RunPlan(PosixFileSystem(), checkpoint.catalogue, builder.plan, options);
    ASSERT_TRUE(report.ok()) << report.error().Message();
    EXPECT_EQ(report.value().anomalies.nan_codes, 2u) << memory;
    EXPECT_EQ(report.value().anomalies.bad_scales, 1u) << memory;  // once per block, not per strip
  }
}

}  // namespace
}  // namespace mimo::executor_determinism_test
