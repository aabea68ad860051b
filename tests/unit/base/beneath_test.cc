// Names below a directory that is held open: nothing is reached through a link, and nothing elsewhere.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "lib/base/file_system.h"
#include "tests/faults/scratch_directory.h"

namespace mimo::beneath_test {
namespace {

namespace stdfs = std::filesystem;

std::string Content(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class BeneathTest : public testing::Test {
 protected:
  BeneathTest() {
    stdfs::create_directories(At("root/real"));
    stdfs::create_directories(At("victim"));
    for (const char* file : {"root/real/f", "victim/f"}) std::ofstream(At(file)) << file;
    stdfs::create_directory_symlink(At("victim"), At("root/link"));
    stdfs::create_symlink(At("victim/f"), At("root/file-link"));
    auto made = PosixFileSystem().Beneath(At("root"));
    EXPECT_TRUE(made.ok());
    fs_ = std::move(made.value());
  }
  std::string At(const std::string& name) const { return scratch_.File(name); }

  ScratchDirectory scratch_;
  std::unique_ptr<FileSystem> fs_;
};

TEST_F(BeneathTest, WorksOnNames) {
  ASSERT_TRUE(fs_->CreateDirectories("a/b").ok());
  {
    auto out = fs_->OpenForWrite("a/b/f", OpenMode::kCreateNew);
    ASSERT_TRUE(out.ok());
    ASSERT_TRUE(out.value()->WriteAt(0, std::as_bytes(std::span("xyz", 3))).ok());
    const FileInfo info = out.value()->Info().value();
    EXPECT_EQ(info.inode, fs_->Stat("a/b/f").value()->inode);
    EXPECT_EQ(info.ctime_ns, fs_->Stat("a/b/f").value()->ctime_ns);
    EXPECT_EQ(info.birth_ns, fs_->Stat("a/b/f").value()->birth_ns);
    EXPECT_EQ(info.birth_ns, fs_->OpenForRead("a/b/f").value()->Info().value().birth_ns);
  }
  EXPECT_EQ(Content(At("root/a/b/f")), "xyz");
  EXPECT_EQ(fs_->OpenForRead("a/b/f").value()->size(), 3u);
  ASSERT_TRUE(fs_->Rename("a/b/f", "g").ok());
  ASSERT_TRUE(fs_->HardLink(At("victim/f"), "a/hard").ok());
  ASSERT_TRUE(fs_->SymLink("anything", "a/soft").ok());
  EXPECT_EQ(fs_->ReadLink("a/soft").value().value(), "anything");
  EXPECT_EQ(fs_->List("a").value(), (std::vector<std::string>{"b", "hard", "soft"}));
  EXPECT_EQ(fs_->List("").value(), (std::vector<std::string>{"a", "file-link", "g", "link", "real"}));
  EXPECT_TRUE(fs_->SyncDirectory("").ok());
  EXPECT_TRUE(fs_->SyncDirectory("a").ok());
  EXPECT_FALSE(fs_->Stat("a/none").value().has_value());
  EXPECT_FALSE(fs_->Stat("none/none").value().has_value());
  EXPECT_TRUE(fs_->Remove("none/none").ok());
  EXPECT_GT(fs_->FreeBytes("a").value(), 0u);
  EXPECT_FALSE(fs_->RemoveDirectory("a").ok()) << "it is not empty";
  EXPECT_FALSE(fs_->RemoveDirectory("g").ok()) << "a file";
  ASSERT_TRUE(fs_->RemoveAll("a").ok());
  EXPECT_EQ(Content(At("victim/f")), "victim/f");
  EXPECT_FALSE(stdfs::exists(At("root/a")));
}

TEST_F(BeneathTest, NoLinkIsFollowed) {
  const auto refused = [](const auto& result) {
    return !result.ok() && result.error().code == ErrorCode::kIo &&
           result.error().what.find("a symbolic link is in the way") != std::string::npos;
  };
  EXPECT_TRUE(refused(fs_->OpenForRead("link/f")));
  EXPECT_TRUE(refused(fs_->OpenForRead("file-link")));
  for (const OpenMode mode : {OpenMode::kTruncate, OpenMode::kKeep}) {
    EXPECT_TRUE(refused(fs_->OpenForWrite("link/f", mode)));
    EXPECT_TRUE(refused(fs_->OpenForWrite("file-link", mode)));
  }
  EXPECT_FALSE(fs_->OpenForWrite("link/new", OpenMode::kCreateNew).ok());
  EXPECT_TRUE(refused(fs_->OpenLock("file-link", OpenMode::kKeep)));
  EXPECT_TRUE(refused(fs_->List("link")));
  EXPECT_TRUE(refused(fs_->SyncDirectory("link")));
  EXPECT_TRUE(refused(fs_->CreateDirectories("link")));
  EXPECT_TRUE(refused(fs_->CreateDirectories("link/deep")));
  EXPECT_TRUE(refused(fs_->Stat("link/f")));
  EXPECT_TRUE(refused(fs_->Remove("link/f")));
  EXPECT_TRUE(refused(fs_->RemoveAll("link/f")));
  EXPECT_TRUE(refused(fs_->Rename("link/f", "f")));
  EXPECT_TRUE(refused(fs_->Rename("real/f", "link/g")));
  EXPECT_TRUE(refused(fs_->HardLink(At("root/real/f"), "link/h")));
  EXPECT_TRUE(refused(fs_->SymLink("x", "link/h")));
  EXPECT_TRUE(refused(fs_->Beneath("link")));
  EXPECT_FALSE(fs_->RemoveDirectory("link").ok());
  const auto info = fs_->Stat("file-link");
  ASSERT_TRUE(info.ok() && info.value().has_value());
  EXPECT_TRUE(info.value()->symlink);
  EXPECT_EQ(info.value()->kind, FileKind::kOther);
  ASSERT_TRUE(fs_->RemoveAll("link").ok()) << "the link itself goes";
  ASSERT_TRUE(fs_->Remove("file-link").ok());
  EXPECT_EQ(stdfs::directory_iterator(At("victim"))->path().filename(), "f");
  EXPECT_EQ(Content(At("victim/f")), "victim/f");
}

TEST_F(BeneathTest, NamesThatLeaveItAreNone) {
  for (const char* name :
       {"../victim/f", "..", ".", "real/../../victim/f", "/etc/passwd", "real//f", "real/", "a/./b"}) {
    const auto opened = fs_->OpenForRead(name);
    ASSERT_FALSE(opened.ok()) << name;
    EXPECT_EQ(opened.error().code, ErrorCode::kBadInput) << name;
    EXPECT_FALSE(fs_->Remove(name).ok()) << name;
    EXPECT_FALSE(fs_->Rename("real/f", name).ok()) << name;
  }
  EXPECT_EQ(Content(At("root/real/f")), "root/real/f");
}

TEST_F(BeneathTest, TheDirectoryStaysTheSameWhateverItsPathBecomes) {
  stdfs::rename(At("root"), At("moved"));
  stdfs::create_directory_symlink(At("victim"), At("root"));
  ASSERT_TRUE(fs_->Remove("real/f").ok());
  ASSERT_TRUE(fs_->OpenForWrite("new", OpenMode::kCreateNew).ok());
  EXPECT_TRUE(stdfs::exists(At("moved/new")));
  EXPECT_FALSE(stdfs::exists(At("victim/new")));
  EXPECT_TRUE(stdfs::exists(At("victim/f")));
}

TEST_F(BeneathTest, ALockIsHeldByOneAtATime) {
  auto first = fs_->OpenLock("lock", OpenMode::kKeep);
  ASSERT_TRUE(first.ok()) << first.error().Message();
  EXPECT_EQ(first.value()->Read().value(), "");
  EXPECT_EQ(first.value()->TryLock(), LockFile::Lock::kHeld);
  EXPECT_EQ(first.value()->TryLock(), LockFile::Lock::kHeld) << "again";
  ASSERT_TRUE(first.value()->Write("a longer text").ok());
  ASSERT_TRUE(first.value()->Write("text").ok());
  auto second = PosixFileSystem().OpenLock(At("root/lock"), OpenMode::kExisting);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second.value()->Read().value(), "text");
  EXPECT_EQ(second.value()->TryLock(), LockFile::Lock::kTaken);
  EXPECT_EQ(second.value()->Info().value().inode, first.value()->Info().value().inode);
  first.value().reset();
  EXPECT_EQ(second.value()->TryLock(), LockFile::Lock::kHeld);
  EXPECT_FALSE(fs_->OpenLock("none", OpenMode::kExisting).ok());
  EXPECT_FALSE(stdfs::exists(At("root/none")));
}

}  // namespace
}  // namespace mimo::beneath_test
