// What may stand at OUT, and what is removed.
#include "lib/run/output_dir.h"

#include <gtest/gtest.h>

#include "tests/unit/run/model.h"

namespace mimo::output_dir_test {
namespace {

namespace stdfs = std::filesystem;
using lab::CodeOf;
using lab::Convert;

TEST(OutputDir, APathInsideTheCheckpointOrAroundItIsRefused) {
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

TEST(OutputDir, AFileOrAForeignDirectoryIsNeverReplaced) {
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

TEST(OutputDir, WhatNothingShowsToBeAnOutputIsOverwrittenByForceAlone) {
  const lab::Model model;
  const std::string out = model.checkpoint.output();
  lab::WriteFile(out + "/config.json", {'{', '}'});
  lab::WriteFile(out + "/thesis.tex", {'x'});
  stdfs::create_directory_symlink(model.catalogue().root, out + "/.mimo-partial");  // no evidence
  RunOptions options;
  options.force = true;
  EXPECT_EQ(CodeOf(model, options), ErrorCode::kUsage) << "--force alone";
  options.force = false;
  options.overwrite = true;
  EXPECT_EQ(CodeOf(model, options), ErrorCode::kIo);
  EXPECT_TRUE(stdfs::exists(out + "/thesis.tex"));
  stdfs::remove(out + "/.mimo-partial");
  stdfs::create_directory(out + "/.mimo-partial");  // none either: a run that was refused may leave it
  EXPECT_EQ(CodeOf(model, options), ErrorCode::kUsage);
  EXPECT_EQ(lab::Tree(out).size(), 2u);
  options.force = true;
  EXPECT_TRUE(Convert(model, options).ok());
  EXPECT_FALSE(stdfs::exists(out + "/thesis.tex"));
}

TEST(OutputDir, OverwritingReplacesEverythingThatStoodThere) {
  const lab::Model model;
  const std::string out = model.checkpoint.output();
  lab::WriteFile(out + "/config.json", {'{', '}'});
  lab::WriteFile(out + "/mimo-manifest.json", {'{', '}'});
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

TEST(OutputDir, ResumingACompleteOutputDoesNothingAndAnotherPlanIsRefused) {
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

}  // namespace
}  // namespace mimo::output_dir_test
