#include "lib/base/file_system.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <thread>

#include "lib/base/durable_file.h"
#include "lib/base/os_error.h"
#include "tests/faults/scratch_directory.h"

namespace mimo::file_system_test {
namespace {

namespace stdfs = std::filesystem;

std::string Content(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void Put(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

class PosixTest : public testing::Test {
 protected:
  ScratchDirectory scratch_;
  FileSystem& fs_ = PosixFileSystem();
  std::string At(const std::string& name) const { return scratch_.File(name); }
};

TEST_F(PosixTest, WritesAndReadsAtOffsets) {
  auto out = fs_.OpenForWrite(At("f"), OpenMode::kCreateNew);
  ASSERT_TRUE(out.ok()) << out.error().Message();
  ASSERT_TRUE(out.value()->WriteAt(4, Bytes("efgh")).ok());
  ASSERT_TRUE(out.value()->WriteAt(0, Bytes("abcd")).ok());
  ASSERT_TRUE(out.value()->Truncate(10).ok());
  ASSERT_TRUE(out.value()->Sync().ok());
  ASSERT_TRUE(out.value()->Close().ok());
  EXPECT_TRUE(out.value()->Close().ok()) << "closing twice is allowed";
  EXPECT_EQ(Content(At("f")), std::string("abcdefgh\0\0", 10));
  const Status late = out.value()->WriteAt(0, Bytes("x"));
  ASSERT_FALSE(late.ok());
  EXPECT_EQ(late.error().code, ErrorCode::kIo);

  auto in = fs_.OpenForRead(At("f"));
  ASSERT_TRUE(in.ok());
  EXPECT_EQ(in.value()->size(), 10u);
  std::string text(3, '?');
  ASSERT_TRUE(in.value()->ReadAt(2, std::as_writable_bytes(std::span(text))).ok());
  EXPECT_EQ(text, "cde");
  EXPECT_TRUE(in.value()->ReadAt(99, {}).ok()) << "nothing is asked for";
}

TEST_F(PosixTest, ReadingPastTheEndIsTruncated) {
  Put(At("f"), "0123456789");
  auto in = fs_.OpenForRead(At("f"));
  ASSERT_TRUE(in.ok());
  std::string text(8, '?');
  const struct {
    uint64_t offset;
    const char* found;
  } kCases[] = {{6, "4 bytes"}, {10, "0 bytes"}, {11, "0 bytes"}, {UINT64_MAX - 3, "0 bytes"}, {INT64_MAX, "0 bytes"}};
  for (const auto& c : kCases) {
    const Status status = in.value()->ReadAt(c.offset, std::as_writable_bytes(std::span(text)));
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, ErrorCode::kBadInput);
    EXPECT_EQ(status.error().what, "truncated");
    EXPECT_EQ(status.error().file, At("f"));
    EXPECT_EQ(status.error().expected, "8 bytes at offset " + std::to_string(c.offset));
    EXPECT_EQ(status.error().found, c.found);
  }
}

TEST_F(PosixTest, MissingFileIsIo) {
  const auto in = fs_.OpenForRead(At("missing"));
  ASSERT_FALSE(in.ok());
  EXPECT_EQ(in.error().code, ErrorCode::kIo);
  EXPECT_EQ(in.error().file, At("missing"));
  EXPECT_NE(in.error().what.find("No such file"), std::string::npos);
}

TEST_F(PosixTest, OnlyRegularFilesAreReadAndNothingBlocks) {
  ASSERT_EQ(::mkfifo(At("fifo").c_str(), 0600), 0);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  ASSERT_LT(At("socket").size(), sizeof address.sun_path);
  At("socket").copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  const std::pair<std::string, std::string> kCases[] = {{scratch_.path(), "a directory"},
                                                        {At("fifo"), "a FIFO"},
                                                        {At("socket"), "a socket"},
                                                        {"/dev/null", "a character device"}};
  for (const auto& [path, kind] : kCases) {
    const auto in = fs_.OpenForRead(path);
    ASSERT_FALSE(in.ok()) << path;
    EXPECT_EQ(in.error().code, ErrorCode::kBadInput);
    EXPECT_EQ(in.error().file, path);
    EXPECT_EQ(in.error().found, kind);
  }
  for (const std::string& path : {At("fifo"), std::string("/dev/null"), scratch_.path()}) {
    const auto out = fs_.OpenForWrite(path, OpenMode::kTruncate);
    ASSERT_FALSE(out.ok()) << path;
    EXPECT_EQ(out.error().code, ErrorCode::kIo);
  }
  ::close(fd);
}

TEST_F(PosixTest, OpenModes) {
  Put(At("f"), "old content");
  const auto fresh = fs_.OpenForWrite(At("f"), OpenMode::kCreateNew);
  ASSERT_FALSE(fresh.ok());
  EXPECT_EQ(fresh.error().code, ErrorCode::kIo);
  EXPECT_EQ(Content(At("f")), "old content");
  auto kept = fs_.OpenForWrite(At("f"), OpenMode::kKeep);
  ASSERT_TRUE(kept.ok());
  ASSERT_TRUE(kept.value()->WriteAt(0, Bytes("new")).ok());
  EXPECT_EQ(Content(At("f")), "new content");
  ASSERT_TRUE(fs_.OpenForWrite(At("f"), OpenMode::kTruncate).ok());
  EXPECT_EQ(Content(At("f")), "");
  ASSERT_TRUE(fs_.OpenForWrite(At("g"), OpenMode::kKeep).ok());
  EXPECT_EQ(Content(At("g")), "");
}

TEST_F(PosixTest, PathsWithNulBytesAreRefusedEverywhere) {
  Put(At("f"), "x");
  const std::string path = At("f") + std::string("\0tail", 5);
  EXPECT_EQ(fs_.OpenForRead(path).error().code, ErrorCode::kBadInput);
  EXPECT_EQ(fs_.OpenForWrite(path, OpenMode::kTruncate).error().code, ErrorCode::kBadInput);
  EXPECT_EQ(fs_.Stat(path).error().code, ErrorCode::kBadInput);
  EXPECT_EQ(fs_.Remove(path).error().code, ErrorCode::kBadInput);
  EXPECT_EQ(fs_.RemoveAll(path).error().code, ErrorCode::kBadInput);
  EXPECT_EQ(fs_.Rename(path, At("g")).error().code, ErrorCode::kBadInput);
  EXPECT_EQ(Content(At("f")), "x");
}

TEST_F(PosixTest, StatTellsKindsAndLinks) {
  Put(At("f"), "12345");
  stdfs::create_directory(At("d"));
  stdfs::create_symlink("f", At("link"));
  stdfs::create_symlink("nowhere", At("dangling"));
  const auto file = fs_.Stat(At("f")).value();
  ASSERT_TRUE(file.has_value());
  EXPECT_EQ(file->kind, FileKind::kRegular);
  EXPECT_FALSE(file->symlink);
  EXPECT_EQ(file->size, 5u);
  struct stat raw = {};
  ASSERT_EQ(::stat(At("f").c_str(), &raw), 0);
  EXPECT_EQ(file->inode, raw.st_ino);
  EXPECT_EQ(file->device, raw.st_dev);
  EXPECT_EQ(file->mtime_ns, raw.st_mtim.tv_sec * 1'000'000'000L + raw.st_mtim.tv_nsec);
  const auto link = fs_.Stat(At("link")).value();
  ASSERT_TRUE(link.has_value());
  EXPECT_TRUE(link->symlink);
  EXPECT_EQ(link->kind, FileKind::kRegular);
  EXPECT_EQ(link->inode, file->inode);
  EXPECT_EQ(fs_.Stat(At("d")).value()->kind, FileKind::kDirectory);
  EXPECT_EQ(fs_.Stat("/dev/null").value()->kind, FileKind::kOther);
  EXPECT_FALSE(fs_.Stat(At("dangling")).value().has_value());
  EXPECT_FALSE(fs_.Stat(At("missing")).value().has_value());
  EXPECT_FALSE(fs_.Stat(At("f") + "/below").value().has_value());
}

TEST_F(PosixTest, LinksAreReadAsTheyStand) {
  Put(At("f"), "x");
  for (const char* target : {"f", "nowhere", "/absolute/nowhere", "link"}) {
    stdfs::create_symlink(target, At("link"));
    EXPECT_EQ(fs_.ReadLink(At("link")).value(), target);
    stdfs::remove(At("link"));
  }
  for (const char* name : {"f", "missing", "f/below"}) EXPECT_FALSE(fs_.ReadLink(At(name)).value().has_value()) << name;
  stdfs::create_symlink("circle", At("circle"));
  EXPECT_FALSE(fs_.Stat(At("circle")).value().has_value());
}

TEST_F(PosixTest, PermissionsAreToldAndSetWhateverTheUmask) {
  Put(At("f"), "x");
  for (const unsigned mode : {0600u, 0777u, 0444u, 04755u}) {
    ASSERT_EQ(::chmod(At("f").c_str(), mode), 0);
    EXPECT_EQ(fs_.Stat(At("f")).value()->mode, mode);
    const auto file = fs_.OpenForWrite(At("new"), OpenMode::kCreateNew);
    ASSERT_TRUE(file.ok());
    // In this order: what a user without privileges writes to loses its setuid bit.
    ASSERT_TRUE(file.value()->WriteAt(0, std::as_bytes(std::span("y", 1))).ok());
    ASSERT_TRUE(file.value()->SetMode(mode).ok());
    struct stat raw = {};
    ASSERT_EQ(::stat(At("new").c_str(), &raw), 0);
    EXPECT_EQ(raw.st_mode & 07777u, mode);
    stdfs::remove(At("new"));
  }
}

TEST_F(PosixTest, AResolvedPathIsOpenedWithoutLinks) {
  stdfs::create_directory(At("d"));
  Put(At("d/f"), "x");
  const std::string real = fs_.RealPath(At("d/f")).value();
  ASSERT_TRUE(fs_.OpenResolved(real).ok());
  stdfs::create_symlink("d", At("link"));
  stdfs::create_symlink("f", At("d/link"));
  const std::string directory = fs_.RealPath(scratch_.path()).value();
  EXPECT_TRUE(fs_.OpenForRead(directory + "/d/link").ok());
  EXPECT_FALSE(fs_.OpenResolved(directory + "/d/link").ok());
#ifdef SYS_openat2  // which kernels have since 5.6
  if (::syscall(SYS_openat2, -1, "", nullptr, 0) != 0 && errno != ENOSYS && errno != EPERM) {
    EXPECT_FALSE(fs_.OpenResolved(directory + "/link/f").ok());
  }
#endif
  EXPECT_EQ(fs_.OpenResolved(directory + "/d").error().code, ErrorCode::kBadInput);
}

TEST_F(PosixTest, ListIsSortedBytewise) {
  for (const char* name : {"b", "a", "Z", "\xc3\xa9", "10", "9", ".hidden"}) Put(At(name), "");
  EXPECT_EQ(fs_.List(scratch_.path()).value(),
            (std::vector<std::string>{".hidden", "10", "9", "Z", "a", "b", "\xc3\xa9"}));
  EXPECT_EQ(fs_.List(At("a")).error().code, ErrorCode::kIo);
  EXPECT_EQ(fs_.List(At("missing")).error().file, At("missing"));
}

TEST_F(PosixTest, CreateDirectoriesMakesWhatIsMissing) {
  ASSERT_TRUE(fs_.CreateDirectories(At("a/b//c/")).ok());
  ASSERT_TRUE(fs_.CreateDirectories(At("a/b/c")).ok());
  EXPECT_TRUE(stdfs::is_directory(At("a/b/c")));
  stdfs::create_directory_symlink("a", At("link"));
  ASSERT_TRUE(fs_.CreateDirectories(At("link/d")).ok());
  EXPECT_TRUE(stdfs::is_directory(At("a/d")));
  Put(At("f"), "");
  const Status status = fs_.CreateDirectories(At("f/x"));
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kIo);
  EXPECT_EQ(status.error().file, At("f"));
}

TEST_F(PosixTest, RenameReplaces) {
  Put(At("a"), "new");
  Put(At("b"), "old");
  ASSERT_TRUE(fs_.Rename(At("a"), At("b")).ok());
  EXPECT_EQ(Content(At("b")), "new");
  EXPECT_FALSE(stdfs::exists(At("a")));
  EXPECT_EQ(fs_.Rename(At("a"), At("c")).error().code, ErrorCode::kIo);
}

TEST_F(PosixTest, RemoveTakesFilesLinksAndEmptyDirectories) {
  Put(At("f"), "x");
  stdfs::create_symlink(At("f"), At("link"));
  stdfs::create_directories(At("d/inner"));
  EXPECT_TRUE(fs_.Remove(At("missing")).ok());
  ASSERT_TRUE(fs_.Remove(At("link")).ok());
  EXPECT_TRUE(stdfs::exists(At("f"))) << "the link goes, its target stays";
  EXPECT_EQ(fs_.Remove(At("d")).error().code, ErrorCode::kIo) << "not empty";
  ASSERT_TRUE(fs_.Remove(At("d/inner")).ok());
  ASSERT_TRUE(fs_.Remove(At("d")).ok());
  ASSERT_TRUE(fs_.Remove(At("f")).ok());
  EXPECT_EQ(fs_.List(scratch_.path()).value().size(), 0u);
}

TEST_F(PosixTest, RemoveAllNeverFollowsLinks) {
  stdfs::create_directories(At("outside/deep"));
  Put(At("outside/deep/precious"), "x");
  stdfs::create_directories(At("d/e/f"));
  Put(At("d/e/file"), "y");
  stdfs::create_directory_symlink(At("outside"), At("d/e/link"));
  stdfs::create_symlink("nowhere", At("d/dangling"));
  ASSERT_TRUE(fs_.RemoveAll(At("d/")).ok());
  EXPECT_FALSE(stdfs::exists(At("d")));
  EXPECT_EQ(Content(At("outside/deep/precious")), "x");
  stdfs::create_directory_symlink(At("outside"), At("link"));
  ASSERT_TRUE(fs_.RemoveAll(At("link/")).ok());
  EXPECT_FALSE(stdfs::is_symlink(stdfs::symlink_status(At("link"))));
  EXPECT_EQ(Content(At("outside/deep/precious")), "x");
  EXPECT_TRUE(fs_.RemoveAll(At("missing")).ok());
  Put(At("plain"), "");
  EXPECT_TRUE(fs_.RemoveAll(At("plain")).ok());
  EXPECT_FALSE(stdfs::exists(At("plain")));
}

TEST_F(PosixTest, Links) {
  Put(At("f"), "content");
  stdfs::create_symlink("f", At("cache"));
  ASSERT_TRUE(fs_.HardLink(At("cache"), At("hard")).ok());
  EXPECT_FALSE(stdfs::is_symlink(At("hard"))) << "the link is to the file behind a symbolic link";
  EXPECT_EQ(stdfs::hard_link_count(At("f")), 2u);
  ASSERT_TRUE(fs_.SymLink("f", At("sym")).ok());
  EXPECT_EQ(stdfs::read_symlink(At("sym")), "f");
  for (const Status& status : {fs_.HardLink(At("f"), At("sym")), fs_.SymLink("f", At("hard")),
                               fs_.RefLink(At("f"), At("hard")), fs_.HardLink(At("missing"), At("new"))}) {
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, ErrorCode::kIo);
  }
  const Status clone = fs_.RefLink(At("f"), At("clone"));
  if (clone.ok()) {
    EXPECT_EQ(Content(At("clone")), "content");
  } else {
    EXPECT_EQ(clone.error().code, ErrorCode::kIo);
    EXPECT_FALSE(stdfs::exists(At("clone"))) << "a failure leaves nothing behind";
  }
}

TEST_F(PosixTest, SyncDirectoryRealPathFreeBytes) {
  stdfs::create_directory(At("d"));
  stdfs::create_directory_symlink("d", At("link"));
  EXPECT_TRUE(fs_.SyncDirectory(At("d")).ok());
  EXPECT_EQ(fs_.SyncDirectory(At("missing")).error().code, ErrorCode::kIo);
  EXPECT_EQ(fs_.RealPath(At("link/../d/.")).value(), stdfs::canonical(At("d")).string());
  EXPECT_EQ(fs_.RealPath(At("missing")).error().code, ErrorCode::kIo);
  EXPECT_GT(fs_.FreeBytes(scratch_.path()).value(), 0u);
  EXPECT_EQ(fs_.FreeBytes(At("missing")).error().code, ErrorCode::kIo);
}

TEST_F(PosixTest, DistinctRangesFromSeveralThreads) {
  auto out = fs_.OpenForWrite(At("f"), OpenMode::kCreateNew);
  ASSERT_TRUE(out.ok());
  constexpr size_t kPart = 40'000;
  std::vector<std::thread> threads;
  for (char c = 'a'; c < 'e'; ++c) {
    threads.emplace_back([&, c] {
      const std::string text(kPart, c);
      EXPECT_TRUE(out.value()->WriteAt((c - 'a') * kPart, Bytes(text)).ok());
    });
  }
  for (auto& thread : threads) thread.join();
  ASSERT_TRUE(out.value()->Close().ok());
  const std::string content = Content(At("f"));
  ASSERT_EQ(content.size(), 4 * kPart);
  for (size_t i = 0; i < content.size(); ++i) ASSERT_EQ(content[i], static_cast<char>('a' + i / kPart));
}

TEST_F(PosixTest, WholeFiles) {
  const std::string text("a\0b", 3);
  ASSERT_TRUE(WriteNewFile(fs_, At("f"), "something longer").ok());
  ASSERT_TRUE(WriteNewFile(fs_, At("f"), text).ok());
  EXPECT_EQ(ReadWholeFile(fs_, At("f"), 3).value(), text);
  const auto large = ReadWholeFile(fs_, At("f"), 2);
  ASSERT_FALSE(large.ok());
  EXPECT_EQ(large.error().code, ErrorCode::kBadInput);
  EXPECT_EQ(large.error().file, At("f"));
  EXPECT_EQ(large.error().expected, "at most 2 bytes");
  EXPECT_EQ(large.error().found, "3 bytes");
}

TEST(JoinPath, Cases) {
  EXPECT_EQ(JoinPath("a", "b"), "a/b");
  EXPECT_EQ(JoinPath("a/", "b"), "a/b");
  EXPECT_EQ(JoinPath("/", "b"), "/b");
  EXPECT_EQ(JoinPath("", "b"), "b");
  EXPECT_EQ(JoinPath("a", ""), "a");
  EXPECT_EQ(JoinPath("a", "b/c"), "a/b/c");
  EXPECT_EQ(JoinPath("a", "/b"), "/b");
}

TEST(OsError, SaysWhatToDo) {
  const Error full = OsError("cannot write", "/out/file", ENOSPC);
  EXPECT_EQ(full.code, ErrorCode::kIo);
  EXPECT_EQ(full.what, "cannot write: No space left on device");
  EXPECT_EQ(full.file, "/out/file");
  EXPECT_EQ(full.advice, "free space at /out/file or choose another output");
  EXPECT_EQ(OsError("cannot read", "f", EIO).advice, "");
}

}  // namespace
}  // namespace mimo::file_system_test
