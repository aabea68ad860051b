// Files that are made in memory when they are read hold what a run writes: of every form, in whatever pieces they are
// read, by several threads, with little kept.
#include "lib/run/planned_files.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "lib/forms/registry/open_checkpoint.h"
#include "lib/planner/planner.h"
#include "lib/recipe/recipe.h"
#include "lib/run/executor.h"
#include "lib/synth/synth.h"
#include "tests/unit/run/lab.h"

namespace mimo::planned_files_test {
namespace {

struct Case {
  const char* name;
  PlanOptions options;
};
void PrintTo(const Case& one, std::ostream* out) {
  *out << one.name;
}

PlanOptions WithRecipe(const char* name) {
  PlanOptions options;
  auto recipe = FindRecipe(PosixFileSystem(), name);
  EXPECT_TRUE(recipe.ok());
  if (recipe.ok()) options.recipe = std::move(recipe).value();
  return options;
}

std::vector<Case> Cases() {
  PlanOptions split, bf16, regrouped, ranks, padded, neuron, megatron;
  split.qkv = QkvWish("split");
  bf16.dtype = DTypeChoice::kBf16;
  bf16.qkv = QkvWish("split");
  regrouped.qkv = QkvWish("fused:1");
  ranks.to = TargetKind::kVllm;
  ranks.format = FormKind::kShardedState;
  ranks.tp = 2;
  padded.to = TargetKind::kVllm;
  padded.tp = 3;
  padded.pad = true;
  neuron.to = TargetKind::kNxdi;
  megatron.to = TargetKind::kMegatron;
  PlanOptions ranks4 = WithRecipe("nvfp4");
  ranks4.to = TargetKind::kVllm;
  ranks4.format = FormKind::kShardedState;
  ranks4.tp = 2;
  return {{"Split", split},
          {"Bf16", bf16},
          {"Regrouped", regrouped},
          {"Ranks", ranks},
          {"Padded", padded},
          {"Neuron", neuron},
          {"Megatron", megatron},
          {"Nvfp4", WithRecipe("nvfp4")},
          {"Mxfp8", WithRecipe("mxfp8")},
          {"Nvfp4Ranks", ranks4}};
}

class PlannedFilesOf : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    SynthOptions synth;
    synth.preset = "mimo-v2.5";
    synth.layers = synth.experts = 2;
    synth.hidden = 128;
    synth.intermediate = synth.moe_intermediate = 256;
    synth.vocab = 64;
    synth.towers = false;
    synth.threads = 1;
    const auto planned = PlanSynthetic(synth);
    ASSERT_TRUE(planned.ok()) << planned.error().Message();
    ASSERT_TRUE(WriteSynthetic(PosixFileSystem(), planned.value(), scratch_.path("source")).ok());
    auto opened = OpenCheckpoint(PosixFileSystem(), scratch_.path("source"));
    ASSERT_TRUE(opened.ok()) << opened.error().Message();
    checkpoint_ = std::move(opened).value();
    auto plan = MakePlan(checkpoint_, GetParam().options);
    ASSERT_TRUE(plan.ok()) << plan.error().Message();
    plan_ = std::move(plan).value();
    plan_.tool_version = "test";
    RunOptions options;
    options.threads = 1;
    options.memory_bytes = 256 << 20;
    options.output = scratch_.output();
    const auto run = RunPlan(PosixFileSystem(), checkpoint_.stored, plan_, options);
    ASSERT_TRUE(run.ok()) << run.error().Message();
    expected_ = lab::Tree(options.output);
    expected_.erase("mimo-manifest.json");
  }

  // Parts of files differ in nothing but the CRC-32s of what was made, which nobody has computed.
  bool IsChecked(const std::string& name) const { return name.ends_with(".distcp"); }

  lab::Checkpoint scratch_;
  Checkpoint checkpoint_;
  Plan plan_;
  std::map<std::string, lab::Bytes> expected_;
};

TEST_P(PlannedFilesOf, HoldWhatARunWrites) {
  for (const uint64_t memory : {uint64_t{1}, uint64_t{1} << 30}) {
    PlannedFiles files(PosixFileSystem(), checkpoint_.stored, plan_, "/planned", memory);
    std::vector<std::thread> readers;
    for (unsigned seed = 0; seed < 3; ++seed)
      readers.emplace_back([&, seed] {
        std::mt19937 random(seed);
        for (const auto& [name, bytes] : expected_) {
          const auto file = files.OpenForRead("/planned/" + name);
          ASSERT_TRUE(file.ok()) << name;
          ASSERT_EQ(file.value()->size(), bytes.size()) << name;
          lab::Bytes found(bytes.size());
          for (size_t at = 0; at < bytes.size();) {
            const size_t count = std::min<size_t>(bytes.size() - at, 1 + random() % 300'000);
            const auto read = file.value()->ReadAt(at, std::as_writable_bytes(std::span(found).subspan(at, count)));
            ASSERT_TRUE(read.ok()) << read.error().Message();
            at += count;
          }
          if (!IsChecked(name)) {
            EXPECT_EQ(found == bytes, true) << name;
          }
        }
      });
    for (std::thread& reader : readers) reader.join();
  }
}

TEST_P(PlannedFilesOf, OpenAsTheSameCheckpoint) {
  PlannedFiles files(PosixFileSystem(), checkpoint_.stored, plan_, "/planned", 64 << 20);
  auto written = OpenCheckpoint(PosixFileSystem(), scratch_.output());
  auto planned = OpenCheckpoint(files, "/planned");
  ASSERT_TRUE(written.ok()) << written.error().Message();
  ASSERT_TRUE(planned.ok()) << planned.error().Message();
  const Catalogue &a = written.value().catalogue(), &b = planned.value().catalogue();
  ASSERT_EQ(a.arrays.size(), b.arrays.size());
  for (size_t i = 0; i < a.arrays.size(); ++i) {
    EXPECT_EQ(a.arrays[i].name, b.arrays[i].name);
    EXPECT_EQ(a.arrays[i].shape, b.arrays[i].shape);
  }
  EXPECT_EQ(written.value().layout.layout, planned.value().layout.layout);
  EXPECT_FALSE(files.OpenForRead("/planned/nothing").ok());
  EXPECT_FALSE(files.OpenForWrite("/planned/config.json", OpenMode::kTruncate).ok());
  const auto none = files.Stat("/elsewhere");
  ASSERT_TRUE(none.ok());
  EXPECT_FALSE(none.value().has_value());
}

INSTANTIATE_TEST_SUITE_P(Forms, PlannedFilesOf, ::testing::ValuesIn(Cases()),
                         [](const auto& one) { return std::string(one.param.name); });

}  // namespace
}  // namespace mimo::planned_files_test
