// Where a run stops: too little memory, a signal, bad input.
#include "lib/run/step_runner.h"

#include <gtest/gtest.h>

#include "lib/base/machine.h"
#include "tests/faults/faulty_file_system.h"
#include "tests/unit/run/model.h"

namespace mimo::step_runner_test {
namespace {

namespace stdfs = std::filesystem;
using lab::CodeOf;
using lab::Convert;

TEST(StepRunner, TooLittleMemoryForOneRowSaysHowMuchIsNeeded) {
  const lab::Model model;
  RunOptions options;
  options.memory_bytes = 1000;
  options.threads = 1;
  const auto report = Convert(model, options);
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::kUsage);
  EXPECT_FALSE(stdfs::exists(model.checkpoint.output()));
  options.memory_bytes = std::stoull(report.error().expected.substr(9));
  EXPECT_TRUE(Convert(model, options).ok());
}

TEST(StepRunner, AStopLeavesAPartialOutputThatResumes) {
  const lab::Model model;
  std::atomic<int> stop{15};
  RunOptions options;
  options.stop = &stop;
  EXPECT_EQ(CodeOf(model, options), ErrorCode::kInterrupted);
  EXPECT_EQ(CodeOf(model, options), ErrorCode::kUsage);  // neither --resume nor --overwrite
  stop = 0;
  options.resume = true;
  EXPECT_TRUE(Convert(model, options).ok());
}

// Files of a file system without direct I/O: an error where it was asked for, and nothing where it was a wish.
TEST(StepRunner, DirectIoThatIsNotThereIsAnError) {
  const lab::Model model;
  FaultyFileSystem fs(PosixFileSystem());  // whose files have none
  RunOptions options;
  options.output = model.checkpoint.output();
  options.io = IoMode::kDirect;
  const auto refused = RunPlan(fs, model.catalogue(), model.plan(), options);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kIo);
  EXPECT_NE(refused.error().advice.find("--io"), std::string::npos);
  options.resume = true;
  options.io = IoMode::kAuto;
  EXPECT_TRUE(RunPlan(fs, model.catalogue(), model.plan(), options).ok());
}

TEST(StepRunner, AutoGoesPastThePageCacheWhereMemoryIsTooSmall) {
  const lab::Model model;
  RunOptions options;
  EXPECT_EQ(WantsDirect(model.catalogue(), model.plan(), options), std::pair(false, false));
  Catalogue large = model.catalogue();
  large.files[0].bytes = uint64_t{1} << 50;
  EXPECT_EQ(WantsDirect(large, model.plan(), options), std::pair(true, false));
  Plan plan = model.plan();
  plan.files[0].bytes = uint64_t{1} << 50;
  EXPECT_EQ(WantsDirect(model.catalogue(), plan, options), std::pair(false, true));
  options.part = RunPart{0, 1u << 16};  // each has a little of it
  plan.files[0].bytes = UsableMemory();
  EXPECT_EQ(WantsDirect(model.catalogue(), plan, options), std::pair(false, false));
  options.io = IoMode::kBuffered;
  EXPECT_EQ(WantsDirect(large, plan, options), std::pair(false, false));
}

TEST(StepRunner, BadInputNamesTheTensorAndLeavesNothing) {
  for (const bool moved_scale : {false, true}) {
    lab::Random random(9);
    lab::Bytes codes = random.Codes(64 * 64), scales = random.Scales(1);
    const float bad = NAN;
    if (moved_scale) {
      std::memcpy(scales.data(), &bad, 4);
    } else {
      codes[100] = 0x7F;
    }
    lab::Checkpoint checkpoint;
    checkpoint.AddFile("w.safetensors",
                       {{"w", DType::kF8E4M3, {64, 64}, codes}, {"w_scale_inv", DType::kF32, {1, 1}, scales}});
    lab::PlanBuilder builder(checkpoint);
    builder.File("w.safetensors");
    const uint32_t w = builder.Quantized("w", "w_scale_inv");
    if (moved_scale) {
      builder.Keep("w_scale_inv");
    } else {
      builder.Output(builder.Group("g"), "w", DType::kBF16, {64, 64}, Transform::kConvert, {{w, 0, 0, 64}});
    }
    builder.Finish();
    RunOptions options;
    options.output = checkpoint.output();
    const auto report = RunPlan(PosixFileSystem(), checkpoint.catalogue, builder.plan, options);
    ASSERT_FALSE(report.ok());
    EXPECT_EQ(report.error().code, ErrorCode::kBadInput);
    EXPECT_EQ(report.error().tensor, moved_scale ? "w_scale_inv" : "w");
    EXPECT_EQ(report.error().file, checkpoint.path("w.safetensors"));
    EXPECT_NE(report.error().found.find("1 "), std::string::npos) << report.error().found;
    EXPECT_NE(report.error().advice.find("--allow-anomalies"), std::string::npos);
    EXPECT_FALSE(stdfs::exists(checkpoint.output()));
    stdfs::create_directory(checkpoint.output());  // an empty directory of the user's own stays
    EXPECT_FALSE(RunPlan(PosixFileSystem(), checkpoint.catalogue, builder.plan, options).ok());
    EXPECT_TRUE(stdfs::is_empty(checkpoint.output()));
    options.allow_anomalies = true;
    const auto allowed = RunPlan(PosixFileSystem(), checkpoint.catalogue, builder.plan, options);
    ASSERT_TRUE(allowed.ok()) << allowed.error().Message();
    EXPECT_EQ(allowed.value().anomalies.nan_codes, moved_scale ? 0u : 1u);
    EXPECT_EQ(allowed.value().anomalies.bad_scales, moved_scale ? 1u : 0u);
  }
}

}  // namespace
}  // namespace mimo::step_runner_test
