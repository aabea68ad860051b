// A run in parts: what they make together is what one run makes, however many there are, whenever they stop, and nobody
// else writes meanwhile.
#include <gtest/gtest.h>

#include <cstdlib>
#include <set>
#include <thread>

#include "lib/base/machine.h"
#include "lib/model/file_names.h"
#include "lib/run/executor.h"
#include "lib/run/part.h"
#include "lib/run/source_guard.h"
#include "tests/faults/faulty_file_system.h"
#include "tests/faults/forwarding_file_system.h"
#include "tests/unit/run/model.h"

namespace mimo::parts_test {
namespace {

namespace stdfs = std::filesystem;
using Files = std::map<std::string, lab::Bytes>;

class Parts : public ::testing::Test {
 protected:
  Parts() {
    options_.threads = 1;
    options_.unit_bytes = 3'000;
    options_.output = model_.checkpoint.output() + "-whole";
    const auto report = RunPlan(PosixFileSystem(), model_.catalogue(), model_.plan(), options_);
    EXPECT_TRUE(report.ok()) << (report.ok() ? "" : report.error().Message());
    expected_ = lab::Tree(options_.output);
    options_.output = model_.checkpoint.output();
  }

  Result<RunReport> Run(FileSystem& fs, RunOptions options) {
    return RunPlan(fs, model_.catalogue(), model_.plan(), options);
  }
  Result<RunReport> Part(uint32_t index, uint32_t count) {
    RunOptions options = options_;
    options.part = RunPart{index, count};
    return Run(PosixFileSystem(), options);
  }
  Result<RunReport> Join() {
    RunOptions options = options_;
    options.join = true;
    return Run(PosixFileSystem(), options);
  }
  void ExpectComplete(const std::string& where = "") {
    EXPECT_EQ(lab::Tree(options_.output), expected_) << where;
    EXPECT_FALSE(stdfs::exists(options_.output + "/.mimo-partial")) << where;
  }
  void ExpectJoins(const std::string& where = "") {
    const auto report = Join();
    ASSERT_TRUE(report.ok()) << where << ": " << report.error().Message();
    ExpectComplete(where);
  }

  lab::Model model_;
  RunOptions options_;
  Files expected_;
};

TEST(Share, SharesAreEvenAndInOrder) {
  std::mt19937 random(5);
  for (int round = 0; round < 200; ++round) {
    std::vector<Unit> units(random() % 60);
    uint64_t total = 0, largest = 0;
    for (Unit& unit : units) {
      unit.cost = random() % 5 == 0 ? 0 : random() % 1000;
      total += unit.cost;
      largest = std::max(largest, unit.cost);
    }
    const uint32_t count = 1 + random() % 20;
    uint32_t next = 0;
    for (uint32_t index = 0; index < count; ++index) {
      const auto [first, end] = UnitsOfPart(units, {index, count});
      ASSERT_LE(first, end);
      if (first < end) {
        ASSERT_EQ(first, next);
        next = end;
      }
      uint64_t cost = 0;
      for (uint32_t u = first; u < end; ++u) cost += units[u].cost;
      EXPECT_LE(cost, total / count + largest + 1);
      EXPECT_GE(cost + largest + 1, total / count);
    }
    EXPECT_EQ(next, units.size());
  }
}

TEST(Share, LeasesHaveNamesOfTheirOwn) {
  const RunPart part{3, 16};
  const std::string name = LeaseNameOf(part);
  EXPECT_EQ(PartOfLease(name.substr(name.rfind('/') + 1)), part);
  for (const char* other : {"3-of-.json", "-of-4.json", "3-of-16.json.now-1", "3of16.json", "start.json", "3-of-16"})
    EXPECT_EQ(PartOfLease(other), std::nullopt) << other;
}

TEST_F(Parts, MakeTogetherWhatOneRunMakes) {
  for (const uint64_t unit_bytes : {1'000ull, 3'000ull, 20'000ull, 0ull}) {
    for (const uint32_t count : {1u, 2u, 3u, 7u, 16u}) {
      options_.unit_bytes = unit_bytes;
      stdfs::remove_all(options_.output);
      uint64_t made = 0, units = 0;
      for (uint32_t i = count; i-- > 0;) {
        const auto report = Part(i, count);
        ASSERT_TRUE(report.ok()) << i << ": " << report.error().Message();
        made += report.value().units_made;
        units = report.value().units;
        EXPECT_EQ(report.value().units_left, units - made);
        EXPECT_FALSE(stdfs::exists(options_.output + "/mimo-manifest.json"));
      }
      EXPECT_EQ(made, units);
      ExpectJoins(std::to_string(count) + " parts, units of " + std::to_string(unit_bytes));
    }
  }
}

// Remembers which pages of the output's files are written to, once they are made.
class PageLog final : public ForwardingFileSystem {
 public:
  using Pages = std::map<std::string, std::set<uint64_t>>;  // by path
  PageLog() : ForwardingFileSystem(PosixFileSystem()) {}

  Result<std::unique_ptr<WritableFile>> OpenForWrite(const std::string& path, OpenMode mode) override {
    auto file = ForwardingFileSystem::OpenForWrite(path, mode);
    if (!file.ok() || mode != OpenMode::kExisting) return file;
    return std::unique_ptr<WritableFile>(std::make_unique<Logged>(std::move(*file), &pages[path]));
  }
  Pages pages;

 private:
  class Logged final : public WritableFile {
   public:
    Logged(std::unique_ptr<WritableFile> file, std::set<uint64_t>* pages) : file_(std::move(file)), pages_(*pages) {}
    Status WriteAt(uint64_t offset, std::span<const std::byte> data) override {
      for (uint64_t at = offset; at < offset + data.size(); ++at) pages_.insert(at / PageBytes());
      return file_->WriteAt(offset, data);
    }
    Status Truncate(uint64_t size) override { return file_->Truncate(size); }
    Status SetMode(uint32_t mode) override { return file_->SetMode(mode); }
    Status Sync() override { return file_->Sync(); }
    Result<FileInfo> Info() const override { return file_->Info(); }
    Status Close() override { return file_->Close(); }

   private:
    std::unique_ptr<WritableFile> file_;
    std::set<uint64_t>& pages_;
  };
};

// Nodes that write to one page may lose each other's bytes: such pages are the join's.
TEST_F(Parts, NoTwoOfThemWriteToOnePage) {
  std::map<std::string, std::map<uint64_t, int>> writers;
  size_t pages = 0;
  for (uint32_t i = 0; i < 5; ++i) {
    PageLog log;
    RunOptions options = options_;
    options.part = RunPart{i, 5};
    ASSERT_TRUE(Run(log, options).ok());
    for (const auto& [path, written] : log.pages) {
      const bool headed = path.ends_with(".safetensors");
      for (const uint64_t page : written) {
        EXPECT_EQ(writers[path][page]++, 0) << path << " page " << page << " by part " << i;
        EXPECT_TRUE(!headed || page > 0) << path;  // its header was written by who made it
        ++pages;
      }
    }
  }
  EXPECT_GT(pages, 8u);
  ExpectJoins();
}

TEST_F(Parts, RunAtTheSameTime) {
  for (int round = 0; round < 5; ++round) {
    stdfs::remove_all(options_.output);
    std::vector<std::thread> threads;
    std::atomic<int> failed = 0;
    for (uint32_t i = 0; i < 4; ++i)
      threads.emplace_back([&, i] {
        const auto report = Part(i, 4);
        if (!report.ok()) ADD_FAILURE() << report.error().Message();
        failed += report.ok() ? 0 : 1;
      });
    for (std::thread& thread : threads) thread.join();
    ASSERT_EQ(failed, 0);
    ExpectJoins();
  }
}

TEST_F(Parts, AJoinThatComesTooEarlyChangesNothing) {
  ASSERT_EQ(Join().error().code, ErrorCode::kUsage);
  ASSERT_TRUE(Part(0, 3).ok());
  ASSERT_TRUE(Part(2, 3).ok());
  const Files before = lab::Tree(options_.output);
  const auto early = Join();
  ASSERT_FALSE(early.ok());
  EXPECT_EQ(early.error().code, ErrorCode::kIo);
  EXPECT_NE(early.error().found.find("missing"), std::string::npos);
  EXPECT_EQ(lab::Tree(options_.output), before);
  ASSERT_TRUE(Part(1, 3).ok());
  ExpectJoins();
  ExpectJoins("again");
  // A part that is started once more finds all done.
  const auto late = Part(1, 3);
  ASSERT_TRUE(late.ok()) << late.error().Message();
  EXPECT_EQ(late.value().units_made, 0u);
  ExpectComplete();
}

TEST_F(Parts, TheirNumberMayChangeAndOneRunMayFinishThem) {
  ASSERT_TRUE(Part(1, 5).ok());
  ASSERT_TRUE(Part(3, 5).ok());
  const auto more = Part(0, 2);
  ASSERT_TRUE(more.ok());
  EXPECT_GT(more.value().units_resumed, 0u);
  const auto rest = Part(1, 2);
  ASSERT_TRUE(rest.ok());
  EXPECT_EQ(rest.value().units_left, 0u);
  ExpectJoins();

  stdfs::remove_all(options_.output);
  ASSERT_TRUE(Part(1, 3).ok());
  RunOptions whole = options_;
  whole.resume = true;
  const auto report = Run(PosixFileSystem(), whole);
  ASSERT_TRUE(report.ok()) << report.error().Message();
  EXPECT_GT(report.value().units_resumed, 0u);
  EXPECT_GT(report.value().units_made, 0u);
  ExpectComplete();
}

// What one run has begun and not finished is for parts to go on with.
TEST_F(Parts, GoOnWithWhatOneRunHasBegun) {
  FaultyFileSystem fs(PosixFileSystem());
  Fault fault;
  fault.only = Operation::kRead;
  fault.from_then_on = true;
  for (fault.at = 1;; ++fault.at) {
    stdfs::remove_all(options_.output);
    fs.SetFault(fault);
    ASSERT_FALSE(Run(fs, options_).ok());
    if (stdfs::exists(options_.output + "/.mimo-partial/units/000004.json")) break;
  }
  uint64_t resumed = 0;
  for (uint32_t i = 0; i < 2; ++i) {
    const auto report = Part(i, 2);
    ASSERT_TRUE(report.ok()) << report.error().Message();
    resumed = report.value().units_resumed;
  }
  EXPECT_GE(resumed, 5u);
  ExpectJoins();
}

TEST_F(Parts, AndRunsOfTheirOwnKeepEachOtherOut) {
  ASSERT_TRUE(Part(0, 2).ok());
  const auto beneath = PosixFileSystem().Beneath(options_.output);
  ASSERT_TRUE(beneath.ok());
  FileSystem& files = *beneath.value();
  const LeaseOwner owner = LeaseOwner::Here({});
  RunOptions whole = options_;
  whole.resume = true;
  {
    const auto lease = Lease::Take(files, LeaseNameOf({1, 2}), owner);  // another process at part 1 of 2
    ASSERT_TRUE(lease.ok());
    EXPECT_EQ(Join().error().code, ErrorCode::kIo);
    EXPECT_EQ(Run(PosixFileSystem(), whole).error().code, ErrorCode::kIo);
    EXPECT_EQ(Part(1, 2).error().code, ErrorCode::kIo);
    EXPECT_EQ(Part(0, 3).error().code, ErrorCode::kIo);
    EXPECT_EQ(CheckOutput(PosixFileSystem(), model_.catalogue().root, whole).error().code, ErrorCode::kIo);
    EXPECT_TRUE(Part(0, 2).ok());
  }
  {
    const auto lease = Lease::Take(files, kLeaseName, owner);
    ASSERT_TRUE(lease.ok());
    EXPECT_EQ(Part(1, 2).error().code, ErrorCode::kIo);
  }
  // What others have made is never emptied: not by another plan, not by --overwrite.
  model_.builder.plan.digest.high ^= 4;
  EXPECT_EQ(Part(1, 2).error().code, ErrorCode::kUsage);
  {
    const auto lease = Lease::Take(files, LeaseNameOf({0, 2}), owner);
    ASSERT_TRUE(lease.ok());
    options_.overwrite = true;
    EXPECT_EQ(Part(1, 2).error().code, ErrorCode::kIo);
    options_.overwrite = false;
  }
  model_.builder.plan.digest.high ^= 4;
  ASSERT_TRUE(Part(1, 2).ok());
  ExpectJoins();
}

TEST_F(Parts, ReplaceAnOlderOutput) {
  lab::WriteFile(options_.output + "/config.json", {'o', 'l', 'd'});
  lab::WriteFile(options_.output + "/mimo-manifest.json", {'{', '}'});
  EXPECT_EQ(Part(0, 2).error().code, ErrorCode::kUsage);
  options_.overwrite = true;
  ASSERT_TRUE(Part(0, 2).ok());
  EXPECT_EQ(lab::ReadFile(options_.output + "/config.json"), (lab::Bytes{'o', 'l', 'd'}));
  ASSERT_TRUE(Part(1, 2).ok());
  ExpectJoins();
  ASSERT_TRUE(Part(1, 2).ok());  // complete: nothing is begun again
  ExpectComplete();
}

TEST_F(Parts, LinkWhatOneRunLinks) {
  options_.link = LinkMode::kHard;
  ASSERT_TRUE(Part(0, 2).ok());
  options_.link = LinkMode::kCopy;
  const auto other = Part(1, 2);
  ASSERT_FALSE(other.ok());
  EXPECT_EQ(other.error().code, ErrorCode::kUsage);
  options_.link = LinkMode::kHard;
  ASSERT_TRUE(Part(1, 2).ok());
  const auto report = Join();
  ASSERT_TRUE(report.ok()) << report.error().Message();
  EXPECT_TRUE(stdfs::equivalent(options_.output + "/c.safetensors", model_.checkpoint.path("c.safetensors")));
}

// A file that was put in the place of one that parts write to: its units are made again, by a part that is alone.
TEST_F(Parts, WriteToNoFileThatIsNotTheirs) {
  ASSERT_TRUE(Part(0, 2).ok());
  const std::string file = options_.output + "/.mimo-partial/files/a.safetensors";
  stdfs::copy_file(file, file + ".copy");
  stdfs::rename(file + ".copy", file);
  EXPECT_FALSE(Join().ok());
  for (uint32_t i = 0; i < 2; ++i) ASSERT_TRUE(Part(i, 2).ok());
  ExpectJoins();
}

TEST_F(Parts, BadInputLeavesWhatOthersHaveMade) {
  ASSERT_TRUE(Part(0, 2).ok());
  const Files before = lab::Tree(options_.output);
  const std::string b = model_.checkpoint.path("b.safetensors");
  const auto time = stdfs::last_write_time(b);
  stdfs::last_write_time(b, time + std::chrono::seconds(5));
  model_.checkpoint.catalogue.files[1].stamp = {1, 1};
  const auto report = Part(1, 2);
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::kBadInput);
  EXPECT_EQ(lab::Tree(options_.output), before);
}

// Every part compares its share of the replicas, the join what is left.
TEST_F(Parts, ReplicasAreComparedOnce) {
  Plan& plan = model_.builder.plan;
  const uint32_t w = static_cast<uint32_t>(plan.sources.size());
  for (int i = 0; i < 2; ++i) {
    SourceArray source;
    source.array = model_.catalogue().by_name.at("w");
    plan.sources.push_back(source);
  }
  for (int64_t row = 0; row < 192; row += 16) plan.equal.push_back({w, w + 1, row, row, 16});
  for (uint32_t i = 0; i < 3; ++i) ASSERT_TRUE(Part(i, 3).ok());
  size_t records = 0;
  for (const auto& entry : stdfs::directory_iterator(options_.output + "/.mimo-partial/units"))
    records += entry.path().filename().string().starts_with("equal-") ? 1 : 0;
  EXPECT_EQ(records, 3u);
  const auto joined = Join();
  ASSERT_TRUE(joined.ok()) << joined.error().Message();
  EXPECT_LT(joined.value().bytes_read, 2u * 192 * 100);
  // A part that finds a difference says so; the join does not take its silence for a yes.
  stdfs::remove_all(options_.output);
  plan.equal.back().second_row = 0;
  EXPECT_TRUE(Part(0, 3).ok());
  EXPECT_TRUE(Part(1, 3).ok());
  EXPECT_EQ(Part(2, 3).error().code, ErrorCode::kBadInput);
  EXPECT_FALSE(Join().ok());
}

// Every part looks at its share of what is to hold of the source, the join at what is left.
TEST_F(Parts, TheGuardIsSharedOut) {
  class Guard final : public SourceGuard {
   public:
    size_t entries() const override { return seen.size(); }
    Status Check(const std::vector<size_t>& entries) override {
      for (const size_t entry : entries) {
        ++seen[entry];
        if (entry == bad) return BadInput("entry");
      }
      return {};
    }
    std::vector<int> seen = std::vector<int>(10);
    size_t bad = SIZE_MAX;
  };
  Guard guard;
  options_.guard = &guard;
  for (const uint32_t i : {2u, 0u, 1u}) {
    ASSERT_TRUE(Part(i, 3).ok());
    ASSERT_TRUE(Part(i, 3).ok());  // what is recorded is not looked at again
  }
  EXPECT_EQ(guard.seen, std::vector<int>(10, 1));
  stdfs::remove(options_.output + "/.mimo-partial/units/guard-4-7.json");
  ASSERT_TRUE(Join().ok());
  EXPECT_EQ(guard.seen, (std::vector<int>{1, 1, 1, 1, 2, 2, 2, 1, 1, 1}));

  stdfs::remove_all(options_.output);
  guard.bad = 5;
  EXPECT_TRUE(Part(0, 3).ok());
  EXPECT_EQ(Part(1, 3).error().code, ErrorCode::kBadInput);
  EXPECT_TRUE(Part(2, 3).ok());
  EXPECT_FALSE(Join().ok());
  guard.bad = SIZE_MAX;
  EXPECT_TRUE(Part(1, 3).ok());
  EXPECT_TRUE(Join().ok());

  // One run looks at everything; records of a guard of other entries are none.
  stdfs::remove_all(options_.output);
  ASSERT_TRUE(Part(0, 1).ok());
  guard.seen.assign(12, 0);
  ASSERT_TRUE(Join().ok());
  EXPECT_EQ(guard.seen, std::vector<int>(12, 1));
}

// Calls of the first part, of the second and of the join fail, or power does after them: each in turn with
// MIMO_FAULT_SWEEP=1, else some.
TEST_F(Parts, AnyCallMayFail) {
  const std::pair<const char*, int> stages[] = {{"first", 0}, {"second", 1}, {"join", 2}};
  for (const auto& entry : stages) {
    const std::string name = entry.first;
    const int stage = entry.second;
    const auto run = [&](FileSystem& fs) {
      RunOptions options = options_;
      if (stage == 2)
        options.join = true;
      else
        options.part = RunPart{static_cast<uint32_t>(stage), 2};
      return Run(fs, options);
    };
    const auto before = [&] {
      stdfs::remove_all(options_.output);
      for (int i = 0; i < stage; ++i) {
        FaultyFileSystem fs(PosixFileSystem());
        RunOptions options = options_;
        options.part = RunPart{static_cast<uint32_t>(i), 2};
        ASSERT_TRUE(Run(fs, options).ok());
      }
    };
    before();
    FaultyFileSystem counting(PosixFileSystem());
    ASSERT_TRUE(run(counting).ok());
    const uint64_t calls = counting.Calls();
    const bool whole = std::getenv("MIMO_FAULT_SWEEP") != nullptr;
    for (uint64_t n = 1; n <= calls; ++n) {
      for (const int how : {0, 1, 2}) {
        if (!whole && (n + static_cast<uint64_t>(how)) % 13 != 0) continue;
        const std::string where = name + ", call " + std::to_string(n) + ", " + std::to_string(how);
        before();
        // Parts that have ended are on the disk, whatever becomes of this one.
        FaultyFileSystem fs(PosixFileSystem());
        Fault fault;
        fault.at = n;
        fault.error_number = n % 2 == 0 ? ENOSPC : EIO;
        fault.from_then_on = how > 0;
        fs.SetFault(fault);
        const auto failed = run(fs);
        ASSERT_FALSE(failed.ok() && how > 0) << where;
        if (!failed.ok()) {
          ASSERT_EQ(failed.error().code, ErrorCode::kIo) << where << failed.error().Message();
        }
        fs.SetFault({});
        if (how == 2) {
          ASSERT_TRUE(fs.DropUnsynced(PowerLoss{n % 3 != 0, n % 2 != 0}).ok()) << where;
        }
        if (stdfs::exists(options_.output + "/mimo-manifest.json")) {
          ASSERT_EQ(stage, 2) << where;
        }
        // A join that failed is repeated. Parts have work again only where power was lost amid renames.
        bool joined = false;
        if (stage == 2) {
          const auto again = Join();
          joined = again.ok();
          ASSERT_TRUE(joined || how == 2) << where << ": " << again.error().Message();
        }
        for (uint32_t i = 0; i < 2 && !joined; ++i) {
          const auto again = Part(i, 2);
          ASSERT_TRUE(again.ok()) << where << ": " << again.error().Message();
        }
        ExpectJoins(where);
        if (HasFailure()) return;
      }
    }
  }
}

}  // namespace
}  // namespace mimo::parts_test
