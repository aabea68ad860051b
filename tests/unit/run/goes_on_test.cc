// What a run that goes on with what is there takes of it: space that is held, records that are whole, links that stand.
#include <gtest/gtest.h>

#include <algorithm>

#include "lib/run/earlier_work.h"
#include "lib/run/executor.h"
#include "lib/run/record_json.h"
#include "tests/faults/faulty_file_system.h"
#include "tests/faults/forwarding_file_system.h"
#include "tests/unit/run/model.h"

namespace mimo::goes_on_test {
namespace {

namespace stdfs = std::filesystem;
constexpr uint64_t kSmallUnits = 1500;

// A file system with as much space as it is told, whose files hold all blocks of their length from the start.
class FullFileSystem : public ForwardingFileSystem {
 public:
  explicit FullFileSystem(uint64_t free) : ForwardingFileSystem(PosixFileSystem()), free_(free) {}
  Result<uint64_t> FreeBytes(const std::string&) override { return free_; }
  Result<std::optional<FileInfo>> Stat(const std::string& path) override {
    auto info = ForwardingFileSystem::Stat(path);
    if (info.ok() && info.value()) info.value()->allocated = info.value()->size;
    return info;
  }

 private:
  const uint64_t free_;
};

class GoesOn : public ::testing::Test {
 protected:
  GoesOn() : model_(48, 20) {
    options_.threads = 1;
    options_.memory_bytes = 1 << 20;
    options_.unit_bytes = kSmallUnits;
    options_.output = model_.checkpoint.output();
  }

  Result<RunReport> Convert(FileSystem& fs) { return RunPlan(fs, model_.catalogue(), model_.plan(), options_); }
  std::string Partial(const std::string& name) const { return options_.output + "/.mimo-partial/" + name; }

  // Fails in such a call after `name` has been written.
  void StopAfter(const std::string& name, Operation call = Operation::kRead) {
    FaultyFileSystem fs(PosixFileSystem());
    Fault fault;
    fault.only = call;
    fault.from_then_on = true;
    options_.resume = false;
    for (fault.at = 1;; ++fault.at) {
      stdfs::remove_all(options_.output);
      fs.SetFault(fault);
      ASSERT_FALSE(Convert(fs).ok());
      if (stdfs::exists(Partial(name))) break;
    }
    options_.resume = true;
  }

  // Itself, not what it leads to.
  std::optional<WrittenFile> TheLink() const {
    const auto files = PosixFileSystem().Beneath(options_.output);
    return Look(*files.value(), ".mimo-partial/files/c.safetensors").value();
  }

  lab::Model model_;
  RunOptions options_;
};

TEST_F(GoesOn, FilesThatItGoesOnWithHoldTheirSpaceAlready) {
  StopAfter("units/000002.json");
  // Files of which a unit is recorded are gone on with.
  const Units units = CutUnits(MakeJob(model_.catalogue(), model_.plan(), options_), kSmallUnits);
  std::vector<uint8_t> begun(model_.plan().file_groups, 0);
  for (const auto& [name, content] : lab::Tree(Partial("units"))) begun[units.list[std::stoul(name)].file_group] = 1;
  for (uint32_t g = 0; g < begun.size(); ++g)
    if (stdfs::exists(Partial("records/000" + std::to_string(g) + ".json"))) begun[g] = 1;
  FullFileSystem enough(SpaceNeeded(model_.catalogue(), model_.plan(), options_, begun));
  const auto report = Convert(enough);
  ASSERT_TRUE(report.ok()) << report.error().Message();
  EXPECT_GT(report.value().units_resumed, 0u);

  StopAfter("units/000002.json");
  FullFileSystem none(1);
  const auto refused = Convert(none);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().Message().find("not enough free space"), std::string::npos);
}

// Any digit of a record may turn over on its way: nothing of it is taken then, and the unit is made again.
TEST_F(GoesOn, ARecordInWhichABitTurnedOverCountsForNothing) {
  ASSERT_TRUE(Convert(PosixFileSystem()).ok());
  const auto expected = lab::Tree(options_.output);
  StopAfter("units/000002.json");
  const auto kept = lab::Tree(options_.output);
  options_.resume = true;
  const lab::Bytes record = lab::ReadFile(Partial("units/000001.json"));
  size_t tried = 0;
  for (size_t at = 0; at < record.size(); at += 7) {
    stdfs::remove_all(options_.output);
    StopAfter("units/000002.json");
    lab::Bytes damaged = lab::ReadFile(Partial("units/000001.json"));
    ASSERT_EQ(damaged.size() > at, true);
    damaged[at] ^= 1;
    lab::WriteFile(Partial("units/000001.json"), damaged);
    const auto report = Convert(PosixFileSystem());
    ASSERT_TRUE(report.ok()) << report.error().Message();
    EXPECT_EQ(report.value().units_resumed, 2u) << at;
    ASSERT_EQ(lab::Tree(options_.output), expected) << at;
    ++tried;
  }
  EXPECT_GT(tried, 20u);
}

// Links that a record vouches for are neither made anew nor read again, however often a run goes on.
TEST_F(GoesOn, LinksThatStandKeepTheirRecords) {
  for (const LinkMode link : {LinkMode::kSym, LinkMode::kHard}) {
    options_.link = link;
    options_.hash_linked = true;
    StopAfter("records/0002.json", Operation::kRename);
    const auto before = TheLink();
    ASSERT_TRUE(before.has_value());
    for (int turn = 0; turn < 2; ++turn) {
      FaultyFileSystem fs(PosixFileSystem());
      Fault fault;
      fault.only = Operation::kRename;  // of whatever is recorded next
      fault.from_then_on = true;
      fault.at = 1;
      fs.SetFault(fault);
      const auto report = Convert(fs);
      ASSERT_FALSE(report.ok());
      const auto now = TheLink();
      ASSERT_TRUE(now && now->IsAsWritten(*before, true)) << static_cast<int>(link);
    }
    const auto report = Convert(PosixFileSystem());
    ASSERT_TRUE(report.ok()) << report.error().Message();
    EXPECT_EQ(report.value().groups_resumed, 3u) << static_cast<int>(link);
  }
}

// A link of another kind is what is asked for now.
TEST_F(GoesOn, LinksOfAnotherKindAreMadeAnew) {
  options_.link = LinkMode::kSym;
  options_.hash_linked = true;
  StopAfter("records/0002.json", Operation::kRename);
  options_.link = LinkMode::kHard;
  const auto report = Convert(PosixFileSystem());
  ASSERT_TRUE(report.ok()) << report.error().Message();
  EXPECT_FALSE(stdfs::is_symlink(options_.output + "/c.safetensors"));
  EXPECT_GT(stdfs::hard_link_count(options_.output + "/c.safetensors"), 1u);
}

TEST(WrittenFileTest, OneThatOneSystemTellsTheBirthOfIsTheSame) {
  const WrittenFile told{5, 100, 1, 2, 77, ""}, untold{5, 100, 1, 2, 0, ""};
  EXPECT_TRUE(told.Is(untold));
  EXPECT_TRUE(untold.Is(told));
  EXPECT_FALSE(told.Is({5, 100, 1, 2, 78, ""}));
  EXPECT_FALSE(told.Is({6, 100, 1, 2, 77, ""}));
}

}  // namespace
}  // namespace mimo::goes_on_test
