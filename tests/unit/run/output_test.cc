// What may stand at OUT, what is removed, what is linked.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "lib/results/manifest.h"
#include "lib/run/executor.h"
#include "tests/unit/run/model.h"

namespace mimo {
namespace {

namespace stdfs = std::filesystem;

Result<RunReport> Convert(const lab::Model& model, RunOptions options) {
  if (options.output.empty()) options.output = model.checkpoint.output();
  return RunPlan(PosixFileSystem(), model.catalogue(), model.plan(), options);
}
ErrorCode CodeOf(const lab::Model& model, const RunOptions& options) {
  const auto report = Convert(model, options);
  return report.ok() ? ErrorCode(0) : report.error().code;
}
uint64_t Inode(const std::string& path) {
  struct stat info = {};
  return ::stat(path.c_str(), &info) == 0 ? info.st_ino : 0;
}

TEST(Output, APathInsideTheCheckpointOrAroundItIsRefused) {
  const lab::Model model;
  const std::string& root = model.catalogue().root;
  const std::string alias = model.checkpoint.scratch() + "/alias";
  stdfs::create_directory_symlink(root, alias);
  for (const std::string& output :
       {root, root + "/deep/out", alias + "/new", model.checkpoint.scratch(), root + "/../in/x"}) {
    RunOptions options;
    options.output = output;
    EXPECT_EQ(CodeOf(model, options), ErrorCode::kUsage) << output;
    options.overwrite = true;
    EXPECT_EQ(CodeOf(model, options), ErrorCode::kUsage) << output;
  }
  EXPECT_FALSE(stdfs::exists(root + "/deep"));
  RunOptions options;
  options.output = root + "2";  // a name that merely starts alike is fine
  EXPECT_TRUE(Convert(model, options).ok());
}

TEST(Output, AFileOrAForeignDirectoryIsNeverReplaced) {
  const lab::Model model;
  RunOptions options;
  lab::WriteFile(model.checkpoint.output(), {1});
  EXPECT_EQ(CodeOf(model, options), ErrorCode::kUsage);
  stdfs::remove(model.checkpoint.output());
  lab::WriteFile(model.checkpoint.output() + "/photo.jpg", {1, 2});
  for (const bool overwrite : {false, true}) {
    for (const bool resume : {false, true}) {
      options.overwrite = overwrite;
      options.resume = resume;
      EXPECT_EQ(CodeOf(model, options), ErrorCode::kUsage);
    }
  }
  EXPECT_EQ(lab::Tree(model.checkpoint.output()).size(), 1u);
}

TEST(Output, OverwritingReplacesEverythingThatStoodThere) {
  const lab::Model model;
  const std::string out = model.checkpoint.output();
  lab::WriteFile(out + "/config.json", {'{', '}'});
  lab::WriteFile(out + "/old/shard.safetensors", {1, 2});
  RunOptions options;
  EXPECT_EQ(CodeOf(model, options), ErrorCode::kUsage);
  options.overwrite = true;
  ASSERT_TRUE(Convert(model, options).ok());
  const auto tree = lab::Tree(out);
  EXPECT_FALSE(tree.contains("old/shard.safetensors"));
  EXPECT_TRUE(tree.contains("dflash/deep/model.bin"));
  EXPECT_FALSE(stdfs::exists(out + "/.mimo-partial"));
  EXPECT_FALSE(stdfs::exists(out + "/old"));
}

TEST(Output, ResumingACompleteOutputDoesNothingAndAnotherPlanIsRefused) {
  lab::Model model;
  RunOptions options;
  ASSERT_TRUE(Convert(model, options).ok());
  const auto tree = lab::Tree(model.checkpoint.output());
  options.resume = true;
  const auto again = Convert(model, options);
  ASSERT_TRUE(again.ok()) << again.error().Message();
  EXPECT_EQ(again.value().bytes_written, 0u);
  EXPECT_EQ(again.value().blocks.requantized_blocks, 4u);
  model.builder.plan.digest.low ^= 1;
  EXPECT_EQ(CodeOf(model, options), ErrorCode::kUsage);
  EXPECT_EQ(lab::Tree(model.checkpoint.output()), tree);
}

TEST(Output, TooLittleMemoryForOneRowSaysHowMuchIsNeeded) {
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

TEST(Output, AStopLeavesAPartialOutputThatResumes) {
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

TEST(Link, UnchangedFilesAreLinkedAndNothingElse) {
  const lab::Model model;
  const auto before = lab::Tree(model.catalogue().root);
  for (const LinkMode mode : {LinkMode::kHard, LinkMode::kSym}) {
    RunOptions options;
    options.link = mode;
    options.overwrite = stdfs::exists(model.checkpoint.output());
    const auto report = Convert(model, options);
    ASSERT_TRUE(report.ok()) << report.error().Message();
    const std::string out = model.checkpoint.output();
    EXPECT_EQ(Inode(out + "/c.safetensors"), Inode(model.checkpoint.path("c.safetensors")));
    EXPECT_EQ(stdfs::is_symlink(out + "/c.safetensors"), mode == LinkMode::kSym);
    EXPECT_EQ(Inode(out + "/tokenizer.json") == Inode(model.checkpoint.path("tokenizer.json")),
              mode == LinkMode::kHard);
    EXPECT_NE(Inode(out + "/a.safetensors"), Inode(model.checkpoint.path("a.safetensors")));
    const auto manifest = ReadManifest(PosixFileSystem(), out + "/mimo-manifest.json");
    ASSERT_TRUE(manifest.ok());
    EXPECT_TRUE(manifest.value().files[2].linked);
    EXPECT_FALSE(manifest.value().tensors.back().hash.has_value());
  }
  // Replacing an output whose files are hard links to the checkpoint must not write through them.
  RunOptions options;
  options.overwrite = true;
  ASSERT_TRUE(Convert(model, options).ok());
  EXPECT_EQ(lab::Tree(model.catalogue().root), before);
}

TEST(Link, HashesOfLinkedFilesAreThoseOfCopies) {
  const lab::Model model;
  RunOptions options;
  ASSERT_TRUE(Convert(model, options).ok());
  const auto copied = ReadManifest(PosixFileSystem(), model.checkpoint.output() + "/mimo-manifest.json");
  options.overwrite = true;
  options.link = LinkMode::kHard;
  options.hash_linked = true;
  ASSERT_TRUE(Convert(model, options).ok());
  const auto linked = ReadManifest(PosixFileSystem(), model.checkpoint.output() + "/mimo-manifest.json");
  ASSERT_TRUE(copied.ok() && linked.ok());
  ASSERT_TRUE(linked.value().tensors.back().hash.has_value());
  for (size_t i = 0; i < copied.value().tensors.size(); ++i) {
    EXPECT_EQ(copied.value().tensors[i].hash, linked.value().tensors[i].hash);
  }
  for (size_t i = 0; i < copied.value().other_files.size(); ++i) {
    EXPECT_EQ(copied.value().other_files[i].hash, linked.value().other_files[i].hash);
  }
}

TEST(Anomaly, BadInputNamesTheTensorAndLeavesNothing) {
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
}  // namespace mimo
