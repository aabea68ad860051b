// What executor_fault_test.cc proves of one small plan, for whole forms: rank files, a Megatron output, and a
// conversion from Megatron, whose items are compared with their CRC-32 on the way. Whatever call fails, and wherever
// the power does.
//
// With MIMO_FAULT_SWEEP=1 every call of each run fails in its turn; else a dozen of them.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>
#include <iostream>

#include "lib/forms/registry/open_checkpoint.h"
#include "lib/planner/planner.h"
#include "lib/run/executor.h"
#include "lib/synth/synth.h"
#include "tests/faults/faulty_file_system.h"
#include "tests/unit/run/lab.h"

namespace mimo::executor_forms_fault_test {
namespace {

namespace stdfs = std::filesystem;
using Files = std::map<std::string, lab::Bytes>;

bool WholeSweep() {
  const char* text = std::getenv("MIMO_FAULT_SWEEP");
  return text != nullptr && *text == '1';
}

struct Form {
  const char* name;
  bool from_megatron;
  PlanOptions options;
};
void PrintTo(const Form& form, std::ostream* out) {
  *out << form.name;
}

std::vector<Form> Forms() {
  PlanOptions megatron, ranks, back;
  megatron.to = TargetKind::kMegatron;
  ranks.to = TargetKind::kVllm;
  ranks.format = FormKind::kShardedState;
  ranks.tp = 2;
  back.dtype = DTypeChoice::kBf16;
  return {{"ToMegatron", false, megatron}, {"ToRankFiles", false, ranks}, {"FromMegatron", true, back}};
}

class FormFaults : public ::testing::TestWithParam<Form> {
 protected:
  void SetUp() override {
    SynthOptions synth;
    synth.preset = "mimo-v2.5";
    synth.layers = synth.experts = 2;
    synth.hidden = 32;
    synth.intermediate = synth.moe_intermediate = 256;  // two ranks share them out
    synth.vocab = 64;
    synth.towers = false;
    synth.threads = 1;
    const auto planned = PlanSynthetic(synth);
    ASSERT_TRUE(planned.ok()) << planned.error().Message();
    const std::string source = scratch_.path("source"), trained = scratch_.path("trained");
    const auto made = WriteSynthetic(PosixFileSystem(), planned.value(), source);
    ASSERT_TRUE(made.ok()) << made.error().Message();
    options_.threads = 1;
    options_.memory_bytes = 64 << 20;
    if (GetParam().from_megatron) {
      Open(source, Forms()[0].options);
      options_.output = trained;
      const auto run = Convert(PosixFileSystem());
      ASSERT_TRUE(run.ok()) << run.error().Message();
    }
    Open(GetParam().from_megatron ? trained : source, GetParam().options);
    if (HasFatalFailure()) return;
    options_.output = scratch_.output();
    const auto run = Convert(PosixFileSystem());
    ASSERT_TRUE(run.ok()) << run.error().Message();
    EXPECT_EQ(run.value().checksums.verified > 0, GetParam().from_megatron);
    expected_ = lab::Tree(options_.output);
    Reset();
    FaultyFileSystem counting(PosixFileSystem());
    ASSERT_TRUE(Convert(counting).ok());
    calls_ = counting.Calls();
    ASSERT_GT(calls_, 60u);
    stride_ = WholeSweep() ? 1 : calls_ / 12;
    if (WholeSweep()) std::cout << GetParam().name << ": " << calls_ << " calls" << std::endl;
  }

  void Open(const std::string& root, const PlanOptions& options) {
    auto opened = OpenCheckpoint(PosixFileSystem(), root);
    ASSERT_TRUE(opened.ok()) << opened.error().Message();
    checkpoint_ = std::move(opened).value();
    auto plan = MakePlan(checkpoint_, options);
    ASSERT_TRUE(plan.ok()) << plan.error().Message();
    plan_ = std::move(plan).value();
    plan_.tool_version = "test";
  }

  Result<RunReport> Convert(FileSystem& fs) { return RunPlan(fs, checkpoint_.stored, plan_, options_); }

  void Reset() {
    stdfs::remove_all(options_.output);
    options_.resume = false;
  }

  // A run whose call `n` fails, or all from it on. True where nobody noticed: a call whose failure does not matter.
  bool Fails(FaultyFileSystem& fs, uint64_t n, bool for_ever, const std::string& where) {
    Reset();
    Fault fault;
    fault.at = n;
    fault.error_number = n % 2 == 0 ? ENOSPC : EIO;
    fault.from_then_on = for_ever;
    fault.bytes_written_first = 7;
    fs.SetFault(fault);
    const auto report = Convert(fs);
    fs.SetFault({});
    if (report.ok()) return true;
    EXPECT_EQ(report.error().code, ErrorCode::kIo) << where << ": " << report.error().Message();
    EXPECT_FALSE(report.error().file.empty()) << where;
    return false;
  }

  // Nothing that says it is complete and is not; and --resume ends with the bytes of an undisturbed run.
  void ExpectRecovers(const std::string& where) {
    if (stdfs::exists(options_.output + "/mimo-manifest.json")) {
      const Files tree = lab::Tree(options_.output);
      for (const auto& [name, content] : expected_) {
        ASSERT_TRUE(tree.contains(name)) << where << " " << name;
        ASSERT_EQ(tree.at(name), content) << where << " " << name;
      }
    }
    options_.resume = true;
    FaultyFileSystem fs(PosixFileSystem());  // no fault: it only spares the disk the syncs
    const auto report = Convert(fs);
    ASSERT_TRUE(report.ok()) << where << ": " << report.error().Message();
    ASSERT_TRUE(lab::Tree(options_.output) == expected_) << where;
    ASSERT_FALSE(stdfs::exists(options_.output + "/.mimo-partial")) << where;
  }

  lab::Checkpoint scratch_;
  Checkpoint checkpoint_;
  Plan plan_;
  RunOptions options_;
  Files expected_;
  uint64_t calls_ = 0, stride_ = 1;
};

TEST_P(FormFaults, AnyCallMayFailOnceOrForEver) {
  for (uint64_t n = 1; n <= calls_; n += stride_) {
    for (const bool for_ever : {false, true}) {
      const std::string where = "call " + std::to_string(n) + (for_ever ? " and all after" : "");
      FaultyFileSystem fs(PosixFileSystem());
      const bool unnoticed = Fails(fs, n, for_ever, where);
      ASSERT_FALSE(unnoticed && for_ever) << where;
      ExpectRecovers(where);
      if (HasFailure()) return;
    }
  }
}

TEST_P(FormFaults, PowerMayFailAtAnyCall) {
  for (uint64_t n = 1; n <= calls_; n += stride_) {
    for (const PowerLoss loss :
         {PowerLoss{true, false}, PowerLoss{true, true}, PowerLoss{false, false}, PowerLoss{false, true}}) {
      const std::string where = "power lost at call " + std::to_string(n) +
                                (loss.entries_revert ? ", entries reverted" : "") + (loss.data_zero ? ", zeros" : "");
      FaultyFileSystem fs(PosixFileSystem());
      ASSERT_FALSE(Fails(fs, n, true, where)) << where;
      ASSERT_TRUE(fs.DropUnsynced(loss).ok()) << where;
      ExpectRecovers(where);
      if (HasFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Of, FormFaults, ::testing::ValuesIn(Forms()),
                         [](const auto& form) { return std::string(form.param.name); });

}  // namespace
}  // namespace mimo::executor_forms_fault_test
