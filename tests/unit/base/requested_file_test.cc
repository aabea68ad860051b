// A file that a user asks for is written whole or not at all, and nothing else is touched on the way.
#include "lib/base/requested_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "tests/faults/faulty_file_system.h"
#include "tests/faults/scratch_directory.h"

namespace mimo::requested_file_test {
namespace {

namespace stdfs = std::filesystem;

Status Content(const TextSink& sink) {
  for (const char* piece : {"new ", "content"}) MIMO_RETURN_IF_ERROR(sink(piece));
  return {};
}

class RequestedFileTest : public testing::Test {
 protected:
  std::string At(const std::string& name) const { return scratch_.File(name); }
  void Put(const std::string& name, const std::string& text = "old") { std::ofstream(At(name)) << text; }
  std::string Read(const std::string& name) const {
    std::ifstream in(At(name));
    return {std::istreambuf_iterator<char>(in), {}};
  }
  size_t Entries() const {
    return static_cast<size_t>(std::distance(stdfs::directory_iterator(scratch_.path()), stdfs::directory_iterator()));
  }
  Result<RequestedFile> Check(const std::string& path, const std::vector<Untouchable>& untouchable = {}) {
    return RequestedFile::Check(fs_, "--report", path, untouchable);
  }
  void ExpectUsage(const std::string& path, const std::vector<Untouchable>& untouchable = {}) {
    const auto file = Check(path, untouchable);
    ASSERT_FALSE(file.ok()) << path;
    EXPECT_EQ(file.error().code, ErrorCode::kUsage) << file.error().Message();
    EXPECT_NE(file.error().what.find("--report"), std::string::npos);
    EXPECT_FALSE(file.error().advice.empty());
  }

  ScratchDirectory scratch_;
  FaultyFileSystem fs_{PosixFileSystem()};
};

TEST_F(RequestedFileTest, WritesANewFileAndReplacesAnOldOneWithItsPermissions) {
  const auto file = Check(At("f"));
  ASSERT_TRUE(file.ok()) << file.error().Message();
  EXPECT_EQ(Entries(), 0u) << "the check left something behind";
  ASSERT_TRUE(file.value().Write(Content).ok());
  EXPECT_EQ(Read("f"), "new content");
  Put("f");
  stdfs::create_hard_link(At("f"), At("twin"));
  ASSERT_EQ(::chmod(At("f").c_str(), 0640), 0);
  ASSERT_TRUE(Check(At("f")).value().Write(Content).ok());
  EXPECT_EQ(Read("f"), "new content");
  EXPECT_EQ(Read("twin"), "old") << "it was written through a hard link";
  EXPECT_EQ(fs_.Stat(At("f")).value()->mode, 0640u);
  EXPECT_EQ(Entries(), 2u);
}

TEST_F(RequestedFileTest, WhatIsNoRegularFileIsRefusedAndStays) {
  Put("precious");
  stdfs::create_directory(At("d"));
  stdfs::create_symlink(At("precious"), At("link"));
  stdfs::create_symlink("nowhere", At("dangling"));
  ASSERT_EQ(::mkfifo(At("pipe").c_str(), 0600), 0);
  for (const char* name : {"d", "link", "dangling", "pipe", "d/", "d/.", "d/.."}) ExpectUsage(At(name));
  for (const char* path : {"-", "", "/", "."}) ExpectUsage(path);
  // A device of its own, with the numbers of /dev/null; only root makes one.
  if (::mknod(At("null").c_str(), S_IFCHR | 0666, makedev(1, 3)) == 0) ExpectUsage(At("null"));
  EXPECT_EQ(Read("precious"), "old");
  EXPECT_FALSE(stdfs::exists(At("nowhere")));
}

TEST_F(RequestedFileTest, NothingUntouchableIsTouched) {
  stdfs::create_directories(At("in/deep"));
  stdfs::create_directory_symlink(At("in"), At("alias"));
  Put("plan.json");
  const std::vector<Untouchable> untouchable = {
      {"the checkpoint", At("in")}, {"the output", At("out")}, {"the file of --plan", At("plan.json")}};
  for (const char* name :
       {"in/x", "in/deep/x", "alias/x", "alias/deep/x", "in/deep/../x", "out", "plan.json", "in/../plan.json"})
    ExpectUsage(At(name), untouchable);
  EXPECT_TRUE(Check(At("in2"), untouchable).ok());
  EXPECT_TRUE(Check(At("plan.json2"), untouchable).ok());
}

TEST_F(RequestedFileTest, ADirectoryThatIsMissingOrTakesNothingIsAnIoError) {
  EXPECT_EQ(Check(At("missing/f")).error().code, ErrorCode::kIo);
  fs_.SetFault({.at = 1, .only = Operation::kOpenWrite, .error_number = EACCES});
  EXPECT_EQ(Check(At("f")).error().code, ErrorCode::kIo);
}

TEST_F(RequestedFileTest, WhateverFailsTheOldFileStaysAndNothingIsLeftBehind) {
  Put("f");
  const auto file = Check(At("f"));
  ASSERT_TRUE(file.ok());
  fs_.SetFault({});
  ASSERT_TRUE(file.value().Write(Content).ok());
  const uint64_t calls = fs_.Calls();
  ASSERT_GT(calls, 5u);
  for (uint64_t at = 1; at <= calls; ++at) {
    stdfs::remove(At("f"));
    Put("f");
    fs_.SetFault({.at = at, .error_number = ENOSPC});
    const Status status = file.value().Write(Content);
    ASSERT_FALSE(status.ok()) << at;
    EXPECT_EQ(status.error().code, ErrorCode::kIo);
    const std::string now = Read("f");
    EXPECT_TRUE(now == "old" || (at == calls && now == "new content")) << at << ": " << now;
    EXPECT_EQ(Entries(), 1u) << at;
  }
}

TEST_F(RequestedFileTest, WhatTakesTheNameMeanwhileIsNotWrittenThrough) {
  const auto file = Check(At("f"));
  ASSERT_TRUE(file.ok());
  Put("precious");
  const Status status = file.value().Write([&](const TextSink& sink) {
    stdfs::create_symlink(At("precious"), At("f"));
    return sink("x");
  });
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kUsage);
  EXPECT_EQ(Read("precious"), "old");
  EXPECT_TRUE(stdfs::is_symlink(At("f")));
  EXPECT_EQ(Entries(), 2u);
}

TEST_F(RequestedFileTest, TemporaryNamesCannotBeForeseen) {
  std::set<std::string> names;
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(Check(At(std::string(255, 'n'))).value().Write(Content).ok()) << "the longest name there is";
    for (const std::string& path : fs_.LoggedPaths(Operation::kOpenWrite)) names.insert(path);
  }
  EXPECT_EQ(names.size(), 8u);
}

}  // namespace
}  // namespace mimo::requested_file_test
