#include "tests/faults/faulty_file_system.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "tests/faults/scratch_directory.h"

namespace mimo::faulty_file_system_test {
namespace {

namespace stdfs = std::filesystem;

std::string Content(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

class FaultyTest : public testing::Test {
 protected:
  std::string At(const std::string& name) const { return scratch_.File(name); }
  std::string Dir() const { return scratch_.path(); }
  void Put(const std::string& name, const std::string& content, bool sync) {
    auto file = fs_.OpenForWrite(At(name), OpenMode::kTruncate);
    ASSERT_TRUE(file.ok()) << file.error().Message();
    ASSERT_TRUE(file.value()->WriteAt(0, Bytes(content)).ok());
    if (sync) {
      ASSERT_TRUE(file.value()->Sync().ok());
    }
    ASSERT_TRUE(file.value()->Close().ok());
  }
  // What stood there before the test began: durable.
  void Before(const std::string& name, const std::string& content) {
    stdfs::create_directories(stdfs::path(At(name)).parent_path());
    std::ofstream(At(name), std::ios::binary) << content;
  }

  ScratchDirectory scratch_;
  FaultyFileSystem fs_{PosixFileSystem()};
};

TEST_F(FaultyTest, NthCallFailsForEveryN) {
  const auto script = [&]() -> Status {
    MIMO_RETURN_IF_ERROR(fs_.CreateDirectories(At("d")));
    MIMO_ASSIGN_OR_RETURN(auto out, fs_.OpenForWrite(At("d/f"), OpenMode::kTruncate));
    MIMO_RETURN_IF_ERROR(out->WriteAt(0, Bytes("abc")));
    MIMO_RETURN_IF_ERROR(out->Truncate(3));
    MIMO_RETURN_IF_ERROR(out->Sync());
    MIMO_RETURN_IF_ERROR(out->Close());
    MIMO_RETURN_IF_ERROR(fs_.Rename(At("d/f"), At("d/g")));
    MIMO_RETURN_IF_ERROR(fs_.HardLink(At("d/g"), At("d/h")));
    MIMO_RETURN_IF_ERROR(fs_.SyncDirectory(At("d")));
    MIMO_ASSIGN_OR_RETURN(const auto names, fs_.List(At("d")));
    MIMO_ASSIGN_OR_RETURN([[maybe_unused]] const auto info, fs_.Stat(At("d/g")));
    MIMO_ASSIGN_OR_RETURN(const auto in, fs_.OpenForRead(At("d/g")));
    char c = 0;
    MIMO_RETURN_IF_ERROR(in->ReadAt(0, std::as_writable_bytes(std::span(&c, 1))));
    return fs_.Remove(At("d/h"));
  };
  const std::vector<Operation> kOrder = {
      Operation::kMakeDirectory, Operation::kOpenWrite, Operation::kWrite, Operation::kTruncate,      Operation::kSync,
      Operation::kClose,         Operation::kRename,    Operation::kLink,  Operation::kSyncDirectory, Operation::kList,
      Operation::kStat,          Operation::kOpenRead,  Operation::kRead,  Operation::kRemove};
  fs_.SetFault({});
  ASSERT_TRUE(script().ok());
  ASSERT_EQ(fs_.Calls(), kOrder.size());
  for (uint64_t n = 1; n <= kOrder.size(); ++n) {
    stdfs::remove_all(At("d"));
    fs_.SetFault({.at = n});
    fs_.ClearLog();
    const Status status = script();
    ASSERT_FALSE(status.ok()) << n;
    EXPECT_EQ(status.error().code, ErrorCode::kIo);
    EXPECT_NE(status.error().what.find("Input/output error"), std::string::npos);
    EXPECT_TRUE(status.error().file.starts_with(At("d"))) << status.error().file;
    // The destructor of an open file closes it without a call, so the failing one is the last.
    const auto log = fs_.Log();
    ASSERT_EQ(log.size(), n);
    for (uint64_t i = 0; i < n; ++i) {
      EXPECT_EQ(log[i].operation, kOrder[i]);
      EXPECT_EQ(log[i].failed, i + 1 == n);
    }
    EXPECT_EQ(fs_.Calls(kOrder[n - 1]), 1u);
  }
  stdfs::remove_all(At("d"));
  fs_.SetFault({.at = kOrder.size() + 1});
  EXPECT_TRUE(script().ok());
}

TEST_F(FaultyTest, CountsOneKindOnlyAndCanKeepFailing) {
  auto out = fs_.OpenForWrite(At("f"), OpenMode::kCreateNew);
  ASSERT_TRUE(out.ok());
  fs_.SetFault({.at = 2, .only = Operation::kWrite, .error_number = ENOSPC});
  EXPECT_TRUE(out.value()->WriteAt(0, Bytes("a")).ok());
  EXPECT_TRUE(out.value()->Sync().ok());
  const Status full = out.value()->WriteAt(1, Bytes("b"));
  ASSERT_FALSE(full.ok());
  EXPECT_NE(full.error().what.find("No space left"), std::string::npos);
  EXPECT_FALSE(full.error().advice.empty());
  EXPECT_TRUE(out.value()->WriteAt(1, Bytes("c")).ok()) << "only the second fails";
  EXPECT_EQ(Content(At("f")), "ac");

  fs_.SetFault({.at = 1, .only = Operation::kWrite, .from_then_on = true});
  EXPECT_FALSE(out.value()->WriteAt(2, Bytes("d")).ok());
  EXPECT_FALSE(out.value()->WriteAt(2, Bytes("d")).ok());
  EXPECT_TRUE(out.value()->Sync().ok());
  fs_.SetFault({.at = 1, .from_then_on = true});
  EXPECT_FALSE(out.value()->WriteAt(2, Bytes("d")).ok());
  EXPECT_FALSE(out.value()->Sync().ok());
  EXPECT_FALSE(fs_.Stat(At("f")).ok());
  fs_.SetFault({});
  EXPECT_TRUE(out.value()->Sync().ok());
  EXPECT_EQ(Content(At("f")), "ac");
}

TEST_F(FaultyTest, FailingWriteMayGetPartOfTheWay) {
  auto out = fs_.OpenForWrite(At("f"), OpenMode::kCreateNew);
  ASSERT_TRUE(out.ok());
  fs_.SetFault({.at = 1, .only = Operation::kWrite, .bytes_written_first = 3});
  EXPECT_FALSE(out.value()->WriteAt(0, Bytes("abcdef")).ok());
  EXPECT_EQ(Content(At("f")), "abc");
  fs_.SetFault({.at = 1, .only = Operation::kWrite, .bytes_written_first = 99});
  EXPECT_FALSE(out.value()->WriteAt(0, Bytes("xy")).ok());
  EXPECT_EQ(Content(At("f")), "xyc");
}

TEST_F(FaultyTest, LogTellsWhatWasTouched) {
  Before("in", "0123456789");
  const auto in = fs_.OpenForRead(At("in"));
  std::string text(4, '?');
  ASSERT_TRUE(in.value()->ReadAt(3, std::as_writable_bytes(std::span(text))).ok());
  Put("out", "abc", true);
  Put("out", "abc", true);
  EXPECT_EQ(fs_.LoggedPaths(Operation::kOpenRead), std::vector<std::string>{At("in")});
  EXPECT_EQ(fs_.LoggedPaths(Operation::kOpenWrite), std::vector<std::string>{At("out")});
  const auto log = fs_.Log();
  EXPECT_EQ(log[1].operation, Operation::kRead);
  EXPECT_EQ(log[1].offset, 3u);
  EXPECT_EQ(log[1].bytes, 4u);
  fs_.ClearLog();
  EXPECT_TRUE(fs_.Log().empty());
}

TEST_F(FaultyTest, UnsyncedFileIsLostAndSyncedFileSurvives) {
  ASSERT_TRUE(fs_.CreateDirectories(At("d")).ok());
  ASSERT_TRUE(fs_.SyncDirectory(Dir()).ok());
  Put("d/complete", "complete", true);
  Put("d/no_data", "no data", false);
  ASSERT_TRUE(fs_.SyncDirectory(At("d")).ok());
  Put("d/no_entry", "no entry", true);
  ASSERT_TRUE(fs_.DropUnsynced().ok());
  EXPECT_EQ(Content(At("d/complete")), "complete");
  EXPECT_TRUE(stdfs::exists(At("d/no_data")));
  EXPECT_EQ(Content(At("d/no_data")), "");
  EXPECT_FALSE(stdfs::exists(At("d/no_entry")));
}

TEST_F(FaultyTest, EntriesMaySurviveWithoutTheirData) {
  Put("a.tmp", "content", false);
  ASSERT_TRUE(fs_.Rename(At("a.tmp"), At("a")).ok());
  ASSERT_TRUE(fs_.DropUnsynced({.entries_revert = false, .data_zero = true}).ok());
  EXPECT_EQ(Content(At("a")), std::string(7, '\0'));
  Put("b.tmp", "content", false);
  ASSERT_TRUE(fs_.Rename(At("b.tmp"), At("b")).ok());
  ASSERT_TRUE(fs_.DropUnsynced({.entries_revert = false, .data_zero = false}).ok());
  EXPECT_EQ(Content(At("b")), "");
}

TEST_F(FaultyTest, DataGoesBackToTheLastSync) {
  Before("f", "original");
  {
    auto out = fs_.OpenForWrite(At("f"), OpenMode::kKeep);
    ASSERT_TRUE(out.value()->WriteAt(0, Bytes("synced")).ok());
    ASSERT_TRUE(out.value()->Sync().ok());
    ASSERT_TRUE(out.value()->WriteAt(6, Bytes("XX")).ok());
    ASSERT_TRUE(out.value()->Truncate(20).ok());
  }
  EXPECT_EQ(Content(At("f")).size(), 20u);
  ASSERT_TRUE(fs_.DropUnsynced().ok());
  EXPECT_EQ(Content(At("f")), "syncedal");
  {
    auto out = fs_.OpenForWrite(At("f"), OpenMode::kKeep);
    ASSERT_TRUE(out.value()->WriteAt(2, Bytes("YY")).ok());
  }
  ASSERT_TRUE(fs_.DropUnsynced({.data_zero = true}).ok());
  EXPECT_EQ(Content(At("f")), std::string("sy\0\0edal", 8)) << "only the ranges written since";
  ASSERT_TRUE(fs_.OpenForWrite(At("f"), OpenMode::kTruncate).ok());
  EXPECT_EQ(Content(At("f")), "");
  ASSERT_TRUE(fs_.DropUnsynced().ok());
  EXPECT_EQ(Content(At("f")), std::string("sy\0\0edal", 8));
}

TEST_F(FaultyTest, FailedSyncKeepsNothing) {
  auto out = fs_.OpenForWrite(At("f"), OpenMode::kCreateNew);
  ASSERT_TRUE(fs_.SyncDirectory(Dir()).ok());
  ASSERT_TRUE(out.value()->WriteAt(0, Bytes("abc")).ok());
  fs_.SetFault({.at = 1, .only = Operation::kSync});
  EXPECT_FALSE(out.value()->Sync().ok());
  ASSERT_TRUE(fs_.DropUnsynced().ok());
  EXPECT_EQ(Content(At("f")), "");
}

TEST_F(FaultyTest, UnsyncedRenameIsUndoneAndWhatItReplacedIsBack) {
  Before("old", "old content");
  Put("new.tmp", "new content", true);
  ASSERT_TRUE(fs_.SyncDirectory(Dir()).ok());
  ASSERT_TRUE(fs_.Rename(At("new.tmp"), At("old")).ok());
  EXPECT_EQ(Content(At("old")), "new content");
  ASSERT_TRUE(fs_.DropUnsynced().ok());
  EXPECT_EQ(Content(At("old")), "old content");
  EXPECT_EQ(Content(At("new.tmp")), "new content");
  ASSERT_TRUE(fs_.Rename(At("new.tmp"), At("old")).ok());
  ASSERT_TRUE(fs_.SyncDirectory(Dir()).ok());
  ASSERT_TRUE(fs_.DropUnsynced().ok());
  EXPECT_EQ(Content(At("old")), "new content");
  EXPECT_FALSE(stdfs::exists(At("new.tmp")));
}

TEST_F(FaultyTest, RenameBetweenDirectoriesNeedsBothSyncs) {
  for (const auto& [from_synced, to_synced] : {std::pair(true, true), std::pair(true, false), std::pair(false, true)}) {
    stdfs::remove_all(At("from"));
    stdfs::remove_all(At("to"));
    Before("from/f", "x");
    stdfs::create_directory(At("to"));
    ASSERT_TRUE(fs_.Rename(At("from/f"), At("to/f")).ok());
    if (from_synced) {
      ASSERT_TRUE(fs_.SyncDirectory(At("from/")).ok());
    }
    if (to_synced) {
      ASSERT_TRUE(fs_.SyncDirectory(At("to")).ok());
    }
    ASSERT_TRUE(fs_.DropUnsynced().ok());
    EXPECT_EQ(stdfs::exists(At("to/f")), from_synced && to_synced);
    EXPECT_EQ(stdfs::exists(At("from/f")), !(from_synced && to_synced));
  }
}

TEST_F(FaultyTest, UnsyncedDataFollowsASyncedRename) {
  Put("f.tmp", "not synced", false);
  ASSERT_TRUE(fs_.Rename(At("f.tmp"), At("f")).ok());
  ASSERT_TRUE(fs_.SyncDirectory(Dir()).ok());
  ASSERT_TRUE(fs_.DropUnsynced().ok());
  EXPECT_FALSE(stdfs::exists(At("f.tmp")));
  EXPECT_TRUE(stdfs::exists(At("f")));
  EXPECT_EQ(Content(At("f")), "");
}

TEST_F(FaultyTest, RenamedDirectoryTakesItsRecordsAlong) {
  Before("part/x", "x");
  Put("part/y", "unsynced entry", true);
  ASSERT_TRUE(fs_.Rename(At("part"), At("whole")).ok());
  ASSERT_TRUE(fs_.SyncDirectory(Dir()).ok());
  ASSERT_TRUE(fs_.DropUnsynced().ok());
  EXPECT_FALSE(stdfs::exists(At("part")));
  EXPECT_EQ(Content(At("whole/x")), "x");
  EXPECT_FALSE(stdfs::exists(At("whole/y")));

  Put("whole/z", "synced entry", true);
  ASSERT_TRUE(fs_.Rename(At("whole"), At("again")).ok());
  ASSERT_TRUE(fs_.SyncDirectory(At("again")).ok());
  ASSERT_TRUE(fs_.DropUnsynced().ok());
  EXPECT_FALSE(stdfs::exists(At("again")));
  EXPECT_EQ(Content(At("whole/z")), "synced entry");
}

TEST_F(FaultyTest, UnsyncedRemovalsComeBack) {
  Before("d/f", "file");
  Before("d/sub/g", "deep");
  stdfs::create_symlink("f", At("d/link"));
  ASSERT_TRUE(fs_.RemoveAll(At("d")).ok());
  EXPECT_FALSE(stdfs::exists(At("d")));
  ASSERT_TRUE(fs_.DropUnsynced().ok());
  EXPECT_EQ(Content(At("d/f")), "file");
  EXPECT_EQ(Content(At("d/sub/g")), "deep");
  EXPECT_EQ(stdfs::read_symlink(At("d/link")), "f");
  ASSERT_TRUE(fs_.Remove(At("d/f")).ok());
  ASSERT_TRUE(fs_.SyncDirectory(At("d")).ok());
  ASSERT_TRUE(fs_.DropUnsynced().ok());
  EXPECT_FALSE(stdfs::exists(At("d/f")));
}

TEST_F(FaultyTest, RemovedAndMadeAgain) {
  Before("f", "first");
  ASSERT_TRUE(fs_.Remove(At("f")).ok());
  Put("f", "second", true);
  ASSERT_TRUE(fs_.DropUnsynced().ok());
  EXPECT_EQ(Content(At("f")), "first");
  Put("f", "dirty", false);
  ASSERT_TRUE(fs_.Remove(At("f")).ok());
  Put("f", "second", true);
  ASSERT_TRUE(fs_.SyncDirectory(Dir()).ok());
  ASSERT_TRUE(fs_.DropUnsynced().ok());
  EXPECT_EQ(Content(At("f")), "second") << "data of the file that was removed must not touch the new one";
  Put("f", "dirty", false);
  ASSERT_TRUE(fs_.Remove(At("f")).ok());
  Put("f", "third", false);
  ASSERT_TRUE(fs_.SyncDirectory(Dir()).ok());
  ASSERT_TRUE(fs_.DropUnsynced().ok());
  EXPECT_EQ(Content(At("f")), "") << "the content last synced is that of another file";
}

TEST_F(FaultyTest, UnsyncedDirectoryTakesSyncedContentWithIt) {
  ASSERT_TRUE(fs_.CreateDirectories(At("a/b")).ok());
  Put("a/b/f", "x", true);
  ASSERT_TRUE(fs_.SyncDirectory(At("a/b")).ok());
  ASSERT_TRUE(fs_.SyncDirectory(At("a")).ok());
  ASSERT_TRUE(fs_.DropUnsynced().ok());
  EXPECT_FALSE(stdfs::exists(At("a")));
}

TEST_F(FaultyTest, LinksAreEntries) {
  Before("f", "x");
  ASSERT_TRUE(fs_.HardLink(At("f"), At("hard")).ok());
  ASSERT_TRUE(fs_.SymLink("f", At("sym")).ok());
  ASSERT_TRUE(fs_.DropUnsynced().ok());
  EXPECT_FALSE(stdfs::exists(At("hard")));
  EXPECT_FALSE(stdfs::is_symlink(stdfs::symlink_status(At("sym"))));
  EXPECT_EQ(Content(At("f")), "x");
  ASSERT_TRUE(fs_.HardLink(At("f"), At("hard")).ok());
  ASSERT_TRUE(fs_.SyncDirectory(Dir()).ok());
  ASSERT_TRUE(fs_.DropUnsynced().ok());
  EXPECT_EQ(Content(At("hard")), "x");
}

TEST_F(FaultyTest, FilesOpenDuringThePowerFailureAreDead) {
  auto out = fs_.OpenForWrite(At("f"), OpenMode::kCreateNew);
  ASSERT_TRUE(fs_.DropUnsynced().ok());
  EXPECT_FALSE(out.value()->WriteAt(0, Bytes("x")).ok());
  EXPECT_FALSE(out.value()->Sync().ok());
  EXPECT_FALSE(stdfs::exists(At("f")));
}

TEST_F(FaultyTest, ThreadsMayShareIt) {
  std::vector<std::thread> threads;
  fs_.SetFault({.at = 150, .only = Operation::kWrite});
  std::atomic<int> failures = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      auto out = fs_.OpenForWrite(At(std::to_string(t)), OpenMode::kCreateNew);
      for (uint64_t i = 0; i < 100; ++i) failures += out.value()->WriteAt(i, Bytes("x")).ok() ? 0 : 1;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(failures, 1);
  EXPECT_EQ(fs_.Calls(Operation::kWrite), 400u);
}

}  // namespace
}  // namespace mimo::faulty_file_system_test
