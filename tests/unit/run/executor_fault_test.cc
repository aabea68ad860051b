// Whatever call fails, and wherever the power does: the output is complete, resumable or refused, and never another
// one.
#include <gtest/gtest.h>

#include <cerrno>

#include "lib/run/executor.h"
#include "lib/run/run_state.h"
#include "tests/faults/faulty_file_system.h"
#include "tests/unit/run/model.h"

namespace mimo::executor_fault_test {
namespace {

namespace stdfs = std::filesystem;
using Files = std::map<std::string, lab::Bytes>;

constexpr char kManifest[] = "mimo-manifest.json";
constexpr uint64_t kSmallUnits = 1500;

class Faults : public ::testing::Test {
 protected:
  Faults() : model_(48, 20) {
    options_.threads = 1;
    options_.memory_bytes = 1 << 20;
    options_.output = model_.checkpoint.output();
    const auto report = RunPlan(PosixFileSystem(), model_.catalogue(), model_.plan(), options_);
    EXPECT_TRUE(report.ok()) << (report.ok() ? "" : report.error().Message());
    expected_ = lab::Tree(options_.output);
  }

  // OUT as before the run: absent, or an older output to replace.
  void Reset(bool older) {
    stdfs::remove_all(options_.output);
    options_.overwrite = older;
    options_.resume = false;
    if (!older) return;
    lab::WriteFile(options_.output + "/config.json", {'o', 'l', 'd'});
    lab::WriteFile(options_.output + "/old.safetensors", {1, 2, 3});
    lab::WriteFile(options_.output + "/" + kManifest, {'{', '}'});
  }

  Result<RunReport> Convert(FileSystem& fs) { return RunPlan(fs, model_.catalogue(), model_.plan(), options_); }

  // After a failure: no complete output that is another one.
  void ExpectNeverWrong(bool older, const std::string& where) {
    const std::string manifest = options_.output + "/" + kManifest;
    if (!stdfs::exists(manifest)) return;
    const lab::Bytes bytes = lab::ReadFile(manifest);
    if (older && bytes == lab::Bytes{'{', '}'}) {
      for (const char* name : {"/config.json", "/old.safetensors"}) {
        ASSERT_TRUE(stdfs::exists(options_.output + name)) << where << ": half an old output with its manifest";
      }
      return;
    }
    for (const auto& [name, content] : expected_) {
      const auto tree = lab::Tree(options_.output);
      ASSERT_TRUE(tree.contains(name)) << where << " " << name;
      ASSERT_EQ(tree.at(name), content) << where << " " << name;
    }
  }

  // --resume, or --overwrite again where the first words of the run were lost, ends with the bytes of an undisturbed
  // run.
  void ExpectResumes(bool older, const std::string& where) {
    options_.resume = true;
    options_.overwrite = false;
    FaultyFileSystem fs(PosixFileSystem());  // no fault: it only spares the disk the syncs
    auto report = Convert(fs);
    if (!report.ok() && older && report.error().code == ErrorCode::kUsage) {
      options_.resume = false;
      options_.overwrite = true;
      report = Convert(fs);
    }
    ASSERT_TRUE(report.ok()) << where << ": " << report.error().Message();
    ASSERT_EQ(lab::Tree(options_.output), expected_) << where;
    ASSERT_FALSE(stdfs::exists(options_.output + "/.mimo-partial")) << where;
  }

  lab::Model model_;
  RunOptions options_;
  Files expected_;
};

// Whether OUT holds an older output, and the size of units: by default a file group here is one.
constexpr std::pair<bool, uint64_t> kRuns[] = {{false, 0}, {true, 0}, {false, kSmallUnits}};

TEST_F(Faults, AnyCallMayFailOnceOrForEver) {
  for (const auto& [older, unit_bytes] : kRuns) {
    options_.unit_bytes = unit_bytes;
    Reset(older);
    FaultyFileSystem counting(PosixFileSystem());
    ASSERT_TRUE(Convert(counting).ok());
    const uint64_t calls = counting.Calls();
    ASSERT_GT(calls, 60u);
    for (uint64_t n = 1; n <= calls; ++n) {
      for (const bool for_ever : {false, true}) {
        const std::string where =
            "call " + std::to_string(n) + (for_ever ? " and all after" : "") + (older ? ", overwriting" : "");
        Reset(older);
        FaultyFileSystem fs(PosixFileSystem());
        Fault fault;
        fault.at = n;
        fault.error_number = n % 2 == 0 ? ENOSPC : EIO;
        fault.from_then_on = for_ever;
        fault.bytes_written_first = 7;
        fs.SetFault(fault);
        const auto report = Convert(fs);
        ASSERT_FALSE(report.ok() && for_ever) << where;
        if (!report.ok()) {
          ASSERT_EQ(report.error().code, ErrorCode::kIo) << where << ": " << report.error().Message();
          ASSERT_FALSE(report.error().file.empty()) << where;
        }
        ExpectNeverWrong(older, where);
        ExpectResumes(older, where);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(Faults, LinkedFilesAreLinkedAgainAndNeverWritten) {
  const Files source = lab::Tree(model_.catalogue().root);
  Reset(false);
  options_.link = LinkMode::kHard;
  ASSERT_TRUE(Convert(PosixFileSystem()).ok());
  expected_ = lab::Tree(options_.output);
  for (uint64_t n = 1;; n += 2) {
    Reset(false);
    options_.link = LinkMode::kHard;
    FaultyFileSystem fs(PosixFileSystem());
    Fault fault;
    fault.at = n;
    fault.from_then_on = true;
    fs.SetFault(fault);
    if (Convert(fs).ok()) break;
    // In between a run that would copy what the first one linked.
    Fault later = fault;
    later.at = n + 9;
    fs.SetFault(later);
    options_.resume = true;
    options_.link = LinkMode::kCopy;
    const auto copied = Convert(fs);
    if (copied.ok()) continue;  // published with links or without: both are complete
    options_.link = LinkMode::kHard;
    const auto report = Convert(PosixFileSystem());
    ASSERT_TRUE(report.ok()) << n << ": " << report.error().Message();
    Files tree = lab::Tree(options_.output);
    tree[kManifest] = expected_[kManifest];  // says which were linked, if publication began before
    for (const auto& [name, content] : tree) {
      ASSERT_TRUE(expected_.contains(name)) << n << " " << name;
      ASSERT_EQ(content, expected_.at(name)) << n << " " << name;
    }
    ASSERT_EQ(tree.size(), expected_.size()) << n;
    ASSERT_EQ(lab::Tree(model_.catalogue().root), source) << n;
  }
  EXPECT_EQ(lab::Tree(model_.catalogue().root), source);
}

TEST_F(Faults, TheFirstErrorStopsAllWorkers) {
  options_.threads = 4;
  options_.memory_bytes = 30'000;  // many steps, and workers that wait for memory
  for (uint64_t n = 1; n < 120; n += 3) {
    options_.unit_bytes = n % 2 != 0 ? 0 : kSmallUnits;
    Reset(false);
    FaultyFileSystem fs(PosixFileSystem());
    Fault fault;
    fault.at = n;
    fault.from_then_on = true;
    fs.SetFault(fault);
    const auto report = Convert(fs);
    ASSERT_FALSE(report.ok());
    ASSERT_EQ(report.error().code, ErrorCode::kIo) << report.error().Message();
    ASSERT_FALSE(report.error().file.empty()) << report.error().Message();  // the fault, not what followed from it
    ExpectResumes(false, "call " + std::to_string(n));
    if (HasFatalFailure()) return;
  }
}

TEST_F(Faults, PowerMayFailAtAnyCall) {
  for (const auto& [older, unit_bytes] : kRuns) {
    options_.unit_bytes = unit_bytes;
    Reset(older);
    FaultyFileSystem counting(PosixFileSystem());
    ASSERT_TRUE(Convert(counting).ok());
    const uint64_t calls = counting.Calls();
    for (uint64_t n = 1; n <= calls; ++n) {
      for (const PowerLoss loss :
           {PowerLoss{true, false}, PowerLoss{true, true}, PowerLoss{false, false}, PowerLoss{false, true}}) {
        const std::string where = "power lost at call " + std::to_string(n) + (older ? ", overwriting" : "") +
                                  (loss.entries_revert ? ", entries reverted" : "") + (loss.data_zero ? ", zeros" : "");
        Reset(older);
        FaultyFileSystem fs(PosixFileSystem());
        Fault fault;
        fault.at = n;
        fault.from_then_on = true;
        fs.SetFault(fault);
        ASSERT_FALSE(Convert(fs).ok()) << where;
        fs.SetFault({});
        ASSERT_TRUE(fs.DropUnsynced(loss).ok()) << where;
        ExpectNeverWrong(older, where);
        ExpectResumes(older, where);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(Faults, ACompleteOutputSurvivesAPowerLossRightAfterTheRun) {
  for (const PowerLoss loss : {PowerLoss{true, false}, PowerLoss{true, true}}) {
    Reset(true);
    FaultyFileSystem fs(PosixFileSystem());
    ASSERT_TRUE(Convert(fs).ok());
    ASSERT_TRUE(fs.DropUnsynced(loss).ok());
    EXPECT_EQ(lab::Tree(options_.output), expected_);
  }
}

TEST_F(Faults, CompleteFileGroupsAreNotReadAgain) {
  Reset(false);
  FaultyFileSystem fs(PosixFileSystem());
  Fault fault;
  fault.at = 1;
  fault.only = Operation::kRead;
  // The reads of the last file group fail, whichever that is: those of the others are done.
  std::vector<std::string> done;
  for (; done.size() < 2; ++fault.at) {
    Reset(false);
    fs.SetFault(fault);
    if (Convert(fs).ok()) FAIL();
    done.clear();
    for (const char* group : {"a", "b", "c"})
      if (stdfs::exists(options_.output + "/.mimo-partial/records/000" + std::to_string(*group - 'a') + ".json"))
        done.push_back(model_.checkpoint.path(std::string(group) + ".safetensors"));
  }
  fs.SetFault({});
  fs.ClearLog();
  options_.resume = true;
  const auto report = Convert(fs);
  ASSERT_TRUE(report.ok()) << report.error().Message();
  EXPECT_EQ(report.value().groups_resumed, 2u);
  for (const std::string& path : fs.LoggedPaths(Operation::kRead)) {
    EXPECT_EQ(std::count(done.begin(), done.end(), path), 0) << path;
  }
  EXPECT_EQ(lab::Tree(options_.output), expected_);
}

// A unit that has its record is neither read nor written again, in a file group that was not complete.
TEST_F(Faults, CompleteUnitsAreNotMadeAgain) {
  options_.unit_bytes = kSmallUnits;
  const Units cut = CutUnits(MakeJob(model_.catalogue(), model_.plan(), options_), kSmallUnits);
  uint64_t all = 0, most = 0;
  for (uint64_t n = 1;; ++n) {
    Reset(false);
    FaultyFileSystem fs(PosixFileSystem());
    Fault fault;
    fault.at = n;
    fault.only = Operation::kRead;
    fault.from_then_on = true;
    fs.SetFault(fault);
    auto first = Convert(fs);
    if (first.ok()) {
      all = first->bytes_written;
      break;
    }
    const std::string partial = options_.output + "/.mimo-partial";
    if (!stdfs::exists(partial + "/units") || stdfs::exists(partial + "/publish.json")) continue;
    const auto complete = [&](uint32_t group) {
      return stdfs::exists(partial + "/records/000" + std::to_string(group) + ".json");
    };
    uint64_t units = 0, groups = 0;
    for (uint32_t g = 0; g < model_.plan().file_groups; ++g) groups += complete(g) ? 1 : 0;
    for (const auto& entry : stdfs::directory_iterator(partial + "/units"))
      units += !complete(cut.list.at(std::stoul(entry.path().stem())).file_group) ? 1 : 0;
    fs.SetFault({});
    options_.resume = true;
    auto report = Convert(fs);
    ASSERT_TRUE(report.ok()) << report.error().Message();
    if (!stdfs::exists(partial)) {
      EXPECT_EQ(lab::Tree(options_.output), expected_) << n;
    }
    if (units == 0) continue;
    EXPECT_EQ(report->units_resumed, units) << n;
    most = std::max(most, report->units_resumed);
    EXPECT_EQ(report->groups_resumed, groups);
  }
  EXPECT_GE(most, 3u);
  EXPECT_GT(all, 0u);
}

// What somebody has put in the place of a file is nothing that a unit was written to.
TEST_F(Faults, UnitsOfAFileThatWasReplacedAreMadeAgain) {
  options_.unit_bytes = kSmallUnits;
  Reset(false);
  FaultyFileSystem fs(PosixFileSystem());
  Fault fault;
  fault.only = Operation::kRead;
  fault.from_then_on = true;
  for (fault.at = 1;; ++fault.at) {
    Reset(false);
    fs.SetFault(fault);
    ASSERT_FALSE(Convert(fs).ok());
    if (stdfs::exists(options_.output + "/.mimo-partial/units/000003.json")) break;
  }
  const std::string file = options_.output + "/.mimo-partial/files/a.safetensors";
  stdfs::copy_file(file, file + ".copy");
  stdfs::rename(file + ".copy", file);
  options_.resume = true;
  auto report = Convert(PosixFileSystem());
  ASSERT_TRUE(report.ok()) << report.error().Message();
  EXPECT_EQ(report->units_resumed, 0u);
  EXPECT_EQ(lab::Tree(options_.output), expected_);
}

// Units of another size are none of those that were made: whoever forgets how they were cut loses none of them.
TEST_F(Faults, UnitsOfAnotherSizeAreRefused) {
  FaultyFileSystem fs(PosixFileSystem());
  Fault fault;
  fault.only = Operation::kRead;
  fault.from_then_on = true;
  for (fault.at = 1;; ++fault.at) {
    Reset(false);
    options_.unit_bytes = kSmallUnits;
    fs.SetFault(fault);
    ASSERT_FALSE(Convert(fs).ok());
    if (stdfs::exists(options_.output + "/.mimo-partial/units/000003.json")) break;
  }
  options_.resume = true;
  options_.unit_bytes = 2 * kSmallUnits;
  const auto refused = Convert(PosixFileSystem());
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kUsage);
  EXPECT_NE(refused.error().Message().find("--unit-size"), std::string::npos);
  options_.unit_bytes = kSmallUnits;
  auto report = Convert(PosixFileSystem());
  ASSERT_TRUE(report.ok()) << report.error().Message();
  EXPECT_GT(report->units_resumed, 0u);
  EXPECT_EQ(lab::Tree(options_.output), expected_);
}

// A record stands for the unit that it names, not for the one whose place it is put in.
TEST_F(Faults, ARecordInThePlaceOfAnotherCountsForNothing) {
  options_.unit_bytes = kSmallUnits;
  FaultyFileSystem fs(PosixFileSystem());
  Fault fault;
  fault.only = Operation::kRead;
  fault.from_then_on = true;
  const std::string units = options_.output + "/.mimo-partial/units/";
  for (fault.at = 1;; ++fault.at) {
    Reset(false);
    fs.SetFault(fault);
    ASSERT_FALSE(Convert(fs).ok());
    if (stdfs::exists(units + "000002.json")) break;
  }
  ASSERT_FALSE(stdfs::exists(units + "000003.json"));
  stdfs::copy_file(units + "000002.json", units + "000003.json");
  options_.resume = true;
  auto report = Convert(PosixFileSystem());
  ASSERT_TRUE(report.ok()) << report.error().Message();
  EXPECT_EQ(report->units_resumed, 3u);
  EXPECT_EQ(lab::Tree(options_.output), expected_);
}

TEST(Resume, AnomaliesThatWereAllowedMustBeAllowedAgain) {
  lab::Random random(3);
  lab::Checkpoint checkpoint;
  lab::Bytes codes = random.Codes(64);
  codes[7] = 0x7F;
  checkpoint.AddFile("a.safetensors",
                     {{"a", DType::kF8E4M3, {8, 8}, codes}, {"s", DType::kF32, {1, 1}, random.Scales(1)}});
  lab::PlanBuilder builder(checkpoint);
  builder.File("a.safetensors");
  const uint32_t a = builder.Quantized("a", "s");
  builder.Output(builder.Group("g"), "a", DType::kBF16, {8, 8}, Transform::kConvert, {{a, 0, 0, 8}});
  builder.Finish();
  RunOptions options;
  options.output = checkpoint.output();
  options.allow_anomalies = true;
  FaultyFileSystem fs(PosixFileSystem());
  Fault last;  // publish.json: the tensors are complete
  last.only = Operation::kRename;
  last.at = 3;  // after the state and the record
  fs.SetFault(last);
  ASSERT_FALSE(RunPlan(fs, checkpoint.catalogue, builder.plan, options).ok());
  options.resume = true;
  options.allow_anomalies = false;
  const auto refused = RunPlan(PosixFileSystem(), checkpoint.catalogue, builder.plan, options);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kUsage);
  options.allow_anomalies = true;
  const auto report = RunPlan(PosixFileSystem(), checkpoint.catalogue, builder.plan, options);
  ASSERT_TRUE(report.ok()) << report.error().Message();
  EXPECT_EQ(report.value().groups_resumed, 1u);
  EXPECT_EQ(report.value().anomalies.nan_codes, 1u);
}

TEST_F(Faults, APartialOutputOfAnotherPlanIsRefused) {
  Reset(false);
  FaultyFileSystem fs(PosixFileSystem());
  Fault fault;
  fault.at = 1;
  fault.only = Operation::kTruncate;  // of the first tensor file: the state is written
  fs.SetFault(fault);
  ASSERT_FALSE(Convert(fs).ok());
  model_.builder.plan.digest.high ^= 4;
  options_.resume = true;
  const auto report = Convert(PosixFileSystem());
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::kUsage);
  EXPECT_NE(report.error().found, report.error().expected);
}

}  // namespace
}  // namespace mimo::executor_fault_test
