// Files that are written as a whole: whichever call fails, and whatever a power failure takes, the file is the old one,
// the new one, or absent where there was none.
#include "lib/base/durable_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/faults/faulty_file_system.h"
#include "tests/faults/scratch_directory.h"

namespace mimo::durable_file_test {
namespace {

namespace stdfs = std::filesystem;

const std::string kOld = "what was there before, and longer than what comes";
const std::string kNew = "first second third";

Status NewContent(const TextSink& sink) {
  for (const char* piece : {"first ", "second ", "third"}) MIMO_RETURN_IF_ERROR(sink(piece));
  return {};
}

class DurableFile : public ::testing::Test {
 protected:
  void TearDown() override { fs_.SetFault({}); }

  std::string Path() const { return scratch_.File("f"); }
  std::string Content(const std::string& path) const {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  // The old file, durably there; or none.
  void Begin(bool there) {
    fs_.SetFault({});
    stdfs::remove(Path());
    stdfs::remove(Path() + ".tmp");
    if (!there) return;
    ASSERT_TRUE(WriteDurably(fs_, Path(), kOld).ok());
  }
  void ExpectOldOrNew(bool there, const std::string& where) {
    if (!stdfs::exists(Path())) {
      EXPECT_FALSE(there) << where;
      return;
    }
    const std::string content = Content(Path());
    EXPECT_TRUE(content == kNew || (there && content == kOld)) << where << ": " << content;
  }

  ScratchDirectory scratch_;
  FaultyFileSystem fs_{PosixFileSystem()};
};

TEST_F(DurableFile, ReplacesWhatIsThere) {
  for (const bool there : {false, true}) {
    Begin(there);
    ASSERT_TRUE(WriteDurably(fs_, Path(), NewContent).ok());
    EXPECT_EQ(Content(Path()), kNew);
    EXPECT_FALSE(stdfs::exists(Path() + ".tmp"));
  }
}

TEST_F(DurableFile, EveryFailingCallLeavesTheOldFileOrTheNewOne) {
  for (const bool there : {false, true}) {
    uint64_t failures = 0;
    for (uint64_t at = 1;; ++at) {
      Begin(there);
      fs_.SetFault({.at = at, .error_number = ENOSPC, .bytes_written_first = 3});
      const Status status = WriteDurably(fs_, Path(), NewContent);
      fs_.SetFault({});
      ExpectOldOrNew(there, "call " + std::to_string(at));
      if (status.ok()) break;
      ++failures;
      EXPECT_EQ(status.error().code, ErrorCode::kIo);
    }
    EXPECT_EQ(failures, 10u);  // remove, open, three writes, sync, close, a look, rename, sync of the directory
  }
}

TEST_F(DurableFile, APowerFailureLeavesTheOldFileOrTheNewOne) {
  for (const bool there : {false, true}) {
    for (const bool revert : {false, true}) {
      for (const bool zero : {false, true}) {
        for (uint64_t at = 1; at <= 10; ++at) {
          Begin(there);
          fs_.SetFault({.at = at, .from_then_on = true});
          const bool done = WriteDurably(fs_, Path(), NewContent).ok();
          fs_.SetFault({});
          ASSERT_TRUE(fs_.DropUnsynced({.entries_revert = revert, .data_zero = zero}).ok());
          ExpectOldOrNew(there, "call " + std::to_string(at));
          EXPECT_TRUE(!done || Content(Path()) == kNew);
        }
      }
    }
  }
}

TEST_F(DurableFile, AnErrorOfTheContentIsReturnedAndNothingIsReplaced) {
  Begin(true);
  const Status status = WriteDurably(fs_, Path(), [](const TextSink& sink) -> Status {
    MIMO_RETURN_IF_ERROR(sink("half of"));
    return BadInput("the rest cannot be said");
  });
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().what, "the rest cannot be said");
  EXPECT_EQ(Content(Path()), kOld);
}

TEST_F(DurableFile, ABareNameIsInTheWorkingDirectory) {
  const stdfs::path before = stdfs::current_path();
  stdfs::current_path(scratch_.path());
  const Status status = WriteDurably(PosixFileSystem(), "bare", kNew);
  stdfs::current_path(before);
  ASSERT_TRUE(status.ok()) << status.error().Message();
  EXPECT_EQ(Content(scratch_.File("bare")), kNew);
}

TEST_F(DurableFile, NewFilesAreNotWrittenThroughLinks) {
  Begin(true);
  stdfs::create_hard_link(Path(), scratch_.File("hard"));
  stdfs::create_symlink(Path(), scratch_.File("soft"));
  for (const char* name : {"hard", "soft"}) {
    const Result<uint64_t> bytes = WriteNewFile(fs_, scratch_.File(name), NewContent);
    ASSERT_TRUE(bytes.ok());
    EXPECT_EQ(bytes.value(), kNew.size());
    EXPECT_EQ(Content(scratch_.File(name)), kNew);
  }
  EXPECT_EQ(Content(Path()), kOld);
}

TEST_F(DurableFile, NewFilesAreSynced) {
  fs_.SetFault({});
  ASSERT_TRUE(WriteNewFile(fs_, Path(), kNew).ok());
  EXPECT_EQ(fs_.Calls(Operation::kSync), 1u);
  EXPECT_EQ(fs_.Calls(Operation::kSyncDirectory), 0u);
}

TEST_F(DurableFile, ParentsOfPaths) {
  EXPECT_EQ(ParentOf("a/b/c"), "a/b");
  EXPECT_EQ(ParentOf("a/b/"), "a");
  EXPECT_EQ(ParentOf("/a"), "/");
  EXPECT_EQ(ParentOf("a"), ".");
}

}  // namespace
}  // namespace mimo::durable_file_test
