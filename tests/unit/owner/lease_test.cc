// Who gets a lease, who does not, and how an owner learns that it is one no more.
#include "lib/owner/lease.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "tests/faults/faulty_file_system.h"
#include "tests/faults/forwarding_file_system.h"
#include "tests/faults/scratch_directory.h"

namespace mimo::lease_test {
namespace {

namespace stdfs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;

// A file system without locks.
class WithoutLocks final : public ForwardingFileSystem {
 public:
  explicit WithoutLocks(FileSystem& base) : ForwardingFileSystem(base) {}
  Result<std::unique_ptr<LockFile>> OpenLock(const std::string& path, OpenMode mode) override {
    MIMO_ASSIGN_OR_RETURN(auto file, ForwardingFileSystem::OpenLock(path, mode));
    return std::unique_ptr<LockFile>(std::make_unique<File>(std::move(file)));
  }

 private:
  class File final : public LockFile {
   public:
    explicit File(std::unique_ptr<LockFile> base) : base_(std::move(base)) {}
    Lock TryLock() override { return Lock::kNone; }
    Result<std::string> Read() const override { return base_->Read(); }
    Status Write(std::string_view content) override { return base_->Write(content); }
    Result<FileInfo> Info() const override { return base_->Info(); }

   private:
    const std::unique_ptr<LockFile> base_;
  };
};

class LeaseTest : public testing::Test {
 protected:
  static constexpr char kName[] = ".lease";

  LeaseTest() {
    times_.renew = milliseconds(30);
    times_.settle = milliseconds(300);
    times_.retry = milliseconds(0);
    files_ = std::move(PosixFileSystem().Beneath(scratch_.path()).value());
  }

  Result<std::unique_ptr<Lease>> Take(const LeaseOwner& owner) { return Take(*files_, owner); }
  Result<std::unique_ptr<Lease>> Take(FileSystem& files, const LeaseOwner& owner) {
    return Lease::Take(files, kName, owner, times_);
  }
  std::string Path() const { return scratch_.File(kName); }
  std::string Content() const {
    std::ifstream in(Path());
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void Replace(const std::string& from, const std::string& to) const {
    std::string text = Content();
    ASSERT_NE(text.find(from), std::string::npos) << text;
    text.replace(text.find(from), from.size(), to);
    std::ofstream(Path()) << text;
  }
  // As if it was last renewed so long ago.
  void Age(seconds age) const { stdfs::last_write_time(Path(), stdfs::file_time_type::clock::now() - age); }
  // What a process that was killed leaves behind.
  void Abandon(const LeaseOwner& owner) {
    auto lease = Take(owner);
    ASSERT_TRUE(lease.ok()) << lease.error().Message();
    const std::string text = Content();
    lease.value().reset();
    std::ofstream(Path()) << text;
  }
  bool Lost(Lease& lease) const {
    for (int i = 0; i < 400 && lease.Check().ok(); ++i) std::this_thread::sleep_for(milliseconds(5));
    return !lease.Check().ok();
  }

  ScratchDirectory scratch_;
  std::unique_ptr<FileSystem> files_;
  LeaseTimes times_;
  const LeaseOwner here_ = LeaseOwner::Here({});
  const LeaseOwner elsewhere_{"node7", "another boot", "pid:[1]", 77, {"12_3", 4}};
};

TEST_F(LeaseTest, IsOneOwnersAtATimeAndSaysWhose) {
  auto first = Take(here_);
  ASSERT_TRUE(first.ok()) << first.error().Message();
  for (const char* key : {"\"host\": ", "\"pid\": ", "\"job_id\": ", "\"started\": ", "\"renewed\": "})
    EXPECT_NE(Content().find(key), std::string::npos) << Content();
  for (const LeaseOwner& other : {here_, elsewhere_}) {
    const auto refused = Take(other);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, ErrorCode::kIo);
    const std::string message = refused.error().Message();
    EXPECT_NE(message.find(here_.host), std::string::npos) << message;
    EXPECT_NE(message.find("process " + std::to_string(here_.pid)), std::string::npos) << message;
    EXPECT_NE(message.find("since 20"), std::string::npos) << message;
    EXPECT_FALSE(Lease::CheckFree(*files_, kName, other, times_).ok());
  }
  EXPECT_TRUE(first.value()->Confirm().ok());
  ASSERT_TRUE(first.value()->Release().ok());
  EXPECT_FALSE(stdfs::exists(Path()));
  EXPECT_TRUE(Lease::CheckFree(*files_, kName, here_, times_).ok());
  EXPECT_FALSE(stdfs::exists(Path())) << "made by a look";
  EXPECT_TRUE(Take(here_).ok());
}

TEST_F(LeaseTest, IsRenewedWhileItsOwnerLives) {
  const auto lease = Take(here_);
  ASSERT_TRUE(lease.ok());
  Age(seconds(1000));
  for (int i = 0; i < 400 && stdfs::last_write_time(Path()) < stdfs::file_time_type::clock::now() - seconds(500); ++i)
    std::this_thread::sleep_for(milliseconds(5));
  EXPECT_GT(stdfs::last_write_time(Path()), stdfs::file_time_type::clock::now() - seconds(500));
}

TEST_F(LeaseTest, OfADeadProcessOfThisHostIsTakenOverAtOnce) {
  Abandon(here_);
  EXPECT_TRUE(Lease::CheckFree(*files_, kName, here_, times_).ok());
  EXPECT_TRUE(Take(here_).ok());
}

// Each who looks has the lock for a moment; the others do not take that for an owner.
TEST_F(LeaseTest, OfADeadProcessIsFreeForAllWhoLookAtOnce) {
  Abandon(here_);
  times_.retry = seconds(5);
  std::atomic<int> refused = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) refused += Lease::CheckFree(*files_, kName, here_, times_).ok() ? 0 : 1;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(refused, 0);
}

TEST_F(LeaseTest, OfAnotherHostIsTakenOverWhenItIsStale) {
  Abandon(elsewhere_);
  Age(seconds(50));
  EXPECT_FALSE(Take(here_).ok());
  EXPECT_NE(Content().find("node7"), std::string::npos) << "a refusal changes nothing";
  Age(seconds(70));
  EXPECT_TRUE(Lease::CheckFree(*files_, kName, here_, times_).ok());
  EXPECT_TRUE(Take(here_).ok());
  for (const auto& entry : stdfs::directory_iterator(scratch_.path()))
    ADD_FAILURE() << entry.path() << " is left";  // probes of the clock included
}

TEST_F(LeaseTest, OfTheSameHostNameAndAnotherBootIsNotTakenForDead) {
  LeaseOwner twin = here_;
  twin.boot = "of a machine with the same name";
  Abandon(twin);
  EXPECT_FALSE(Take(here_).ok());
}

TEST_F(LeaseTest, ALaterStartOfTheJobTakesOver) {
  Abandon(elsewhere_);
  LeaseOwner again = here_;
  for (const BatchJob& job : {BatchJob{"12_3", 4}, BatchJob{"12_3", 3}, BatchJob{"12", 5}, BatchJob{"", 9}}) {
    again.job = job;
    EXPECT_FALSE(Take(again).ok()) << job.id << " " << job.restarts;
  }
  again.job = {"12_3", 5};
  EXPECT_TRUE(Take(again).ok());
}

TEST_F(LeaseTest, AnEarlierStartOfTheJobThatStillRunsHasToLetGo) {
  LeaseOwner first = here_, second = here_;
  first.job = {"9", 0};
  second.job = {"9", 1};
  auto before = Take(first);
  ASSERT_TRUE(before.ok());
  Result<std::unique_ptr<Lease>> after = IoError("not asked yet");
  std::thread taker([&] { after = Take(second); });
  EXPECT_TRUE(Lost(*before.value()));
  before.value().reset();
  taker.join();
  ASSERT_TRUE(after.ok()) << after.error().Message();
  EXPECT_TRUE(after.value()->Confirm().ok());
  EXPECT_TRUE(stdfs::exists(Path())) << "removed by the one that lost it";
}

TEST_F(LeaseTest, IsLostWhenItsFileIsAnothersOrGone) {
  {
    const auto lease = Take(here_);
    ASSERT_TRUE(lease.ok());
    stdfs::remove(Path());
    EXPECT_EQ(lease.value()->Confirm().error().code, ErrorCode::kIo);
    EXPECT_FALSE(lease.value()->Check().ok());
  }
  {
    const auto lease = Take(here_);
    ASSERT_TRUE(lease.ok());
    const std::string text = Content();
    stdfs::remove(Path());
    std::ofstream(Path()) << text;  // the same words in another file
    EXPECT_TRUE(Lost(*lease.value()));
  }
  EXPECT_TRUE(stdfs::exists(Path())) << "what is not its own is left alone";
  stdfs::remove(Path());
  const auto lease = Take(here_);
  ASSERT_TRUE(lease.ok());
  Replace("\"token\": \"", "\"token\": \"0");
  EXPECT_TRUE(Lost(*lease.value()));
  EXPECT_EQ(lease.value()->Check().error().code, ErrorCode::kIo);
}

TEST_F(LeaseTest, IsLostWhenItCannotBeRenewedForAWhile) {
  times_.patience = milliseconds(100);
  FaultyFileSystem faulty(PosixFileSystem());
  const auto files = faulty.Beneath(scratch_.path());
  auto lease = Take(*files.value(), here_);
  ASSERT_TRUE(lease.ok());
  Fault fault;
  fault.at = 1;
  fault.only = Operation::kWrite;
  faulty.SetFault(fault);  // one that passes
  std::this_thread::sleep_for(milliseconds(60));
  EXPECT_TRUE(lease.value()->Check().ok());
  fault.from_then_on = true;
  faulty.SetFault(fault);
  EXPECT_TRUE(Lost(*lease.value()));
  EXPECT_EQ(lease.value()->Check().error().code, ErrorCode::kIo);
}

TEST_F(LeaseTest, WithoutTheLockALiveProcessIsNotTakenForDead) {
  Abandon(here_);  // this process, which lives
  Replace("\"locked\": true", "\"locked\": false");
  EXPECT_FALSE(Take(here_).ok());
  LeaseOwner dead = here_;
  dead.pid = 1 << 29;
  stdfs::remove(Path());
  Abandon(dead);
  Replace("\"locked\": true", "\"locked\": false");
  EXPECT_TRUE(Take(here_).ok());
}

TEST_F(LeaseTest, ATimeToComeIsNoTimeOfTheFileSystems) {
  Abandon(elsewhere_);
  Age(seconds(-50));
  EXPECT_FALSE(Take(here_).ok());
  Age(seconds(-1000));
  EXPECT_TRUE(Take(here_).ok());
}

TEST_F(LeaseTest, TheWaitForAnEarlierStartEndsWhenAsked) {
  LeaseOwner first = here_, second = here_;
  first.job = {"9", 0};
  second.job = {"9", 1};
  times_.renew = seconds(1000);  // it never sees that it has to let go
  const auto before = Take(first);
  ASSERT_TRUE(before.ok());
  std::atomic<int> stop = 15;
  const auto after = Lease::Take(*files_, kName, second, times_, &stop);
  ASSERT_FALSE(after.ok());
  EXPECT_EQ(after.error().code, ErrorCode::kInterrupted);
}

TEST_F(LeaseTest, WhoWasStoppedForLongLooksAgainBeforeGoingOn) {
  times_.renew = seconds(1000);
  times_.stale = milliseconds(100);
  const auto lease = Take(here_);
  ASSERT_TRUE(lease.ok());
  Replace("\"token\": \"", "\"token\": \"0");
  EXPECT_TRUE(lease.value()->Check().ok()) << "cheap: the file is not looked at";
  std::this_thread::sleep_for(milliseconds(80));
  EXPECT_FALSE(lease.value()->Check().ok());
}

TEST_F(LeaseTest, ItsFolderComesAndGoesWithIt) {
  const std::string name = "a/b/lease.json";
  const auto take = [&] { return Lease::Take(*files_, name, here_, times_); };
  EXPECT_TRUE(Lease::CheckFree(*files_, name, here_, times_).ok());
  EXPECT_FALSE(stdfs::exists(scratch_.File("a")));
  ASSERT_TRUE(take().ok());
  EXPECT_FALSE(stdfs::exists(scratch_.File("a/b")));
  std::vector<std::thread> threads;  // folders vanish under those who come, and are made again
  std::atomic<int> taken = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 50; ++k) taken += take().ok() ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(taken, 0);
  EXPECT_FALSE(stdfs::exists(scratch_.File("a/b")));
  stdfs::create_directories(scratch_.File("a/b"));
  std::ofstream(scratch_.File("a/b/other")) << "x";
  ASSERT_TRUE(take().ok());
  EXPECT_TRUE(stdfs::exists(scratch_.File("a/b/other")));
  EXPECT_TRUE(BelongsToLease(name, "lease.json"));
  EXPECT_TRUE(BelongsToLease(name, "lease.json.now-12"));
  EXPECT_FALSE(BelongsToLease(name, "lease.jsonx"));
  EXPECT_FALSE(BelongsToLease(name, "state.json"));
}

TEST_F(LeaseTest, ALinkInItsPlaceIsRefused) {
  std::ofstream(scratch_.File("victim")) << "precious";
  stdfs::create_symlink(scratch_.File("victim"), Path());
  EXPECT_FALSE(Take(here_).ok());
  EXPECT_EQ(stdfs::file_size(scratch_.File("victim")), 8u);
}

TEST_F(LeaseTest, WhatCannotBeReadIsHeldUntilItIsStale) {
  std::ofstream(Path()) << "{\"host\": ";
  EXPECT_FALSE(Take(here_).ok());
  Age(seconds(61));
  EXPECT_TRUE(Take(here_).ok());
}

TEST_F(LeaseTest, WorksWithoutLocks) {
  WithoutLocks whole(PosixFileSystem());
  const auto files = std::move(whole.Beneath(scratch_.path()).value());
  {
    const auto lease = Take(*files, here_);
    ASSERT_TRUE(lease.ok()) << lease.error().Message();
    EXPECT_FALSE(Take(*files, here_).ok());
    EXPECT_FALSE(Take(*files, elsewhere_).ok());
  }
  LeaseOwner dead = here_;
  dead.pid = 1 << 29;  // above every process number
  Abandon(dead);
  EXPECT_TRUE(Take(*files, here_).ok());
  Abandon(here_);  // this process lives
  EXPECT_FALSE(Take(*files, here_).ok());
  Age(seconds(61));
  std::vector<std::thread> threads;
  std::atomic<int> taken = 0;
  std::vector<std::unique_ptr<Lease>> leases(4);
  for (size_t i = 0; i < leases.size(); ++i) {
    threads.emplace_back([&, i] {
      auto lease = Take(*files, here_);
      if (!lease.ok()) return;
      leases[i] = std::move(lease.value());
      ++taken;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(taken, 1);
}

TEST_F(LeaseTest, OfManyAtOnceOneGetsIt) {
  for (int round = 0; round < 50; ++round) {
    if (round % 2 == 1) Abandon(here_);
    std::atomic<int> taken = 0;
    std::vector<std::unique_ptr<Lease>> leases(4);
    std::vector<std::thread> threads;
    for (size_t i = 0; i < leases.size(); ++i) {
      threads.emplace_back([&, i] {
        auto lease = Take(here_);
        if (!lease.ok()) return;
        leases[i] = std::move(lease.value());
        ++taken;
      });
    }
    for (std::thread& thread : threads) thread.join();
    ASSERT_EQ(taken, 1) << round;
  }
}

}  // namespace
}  // namespace mimo::lease_test
