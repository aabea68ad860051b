// Where the links in a checkpoint may lead, and what is never entered or opened.
#include "lib/model/carried_files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "tests/faults/scratch_directory.h"

namespace mimo::carried_files_test {
namespace {

namespace stdfs = std::filesystem;

class CarriedFilesTest : public testing::Test {
 protected:
  void SetUp() override {
    Write("in/tokenizer.json");
    Write("in/sub/code.py");
    Write("elsewhere/secret");
  }
  void Write(const std::string& name) {
    stdfs::create_directories(stdfs::path(At(name)).parent_path());
    std::ofstream(At(name)) << "x";
  }
  std::string At(const std::string& name) const { return scratch_.File(name); }
  // Of the link `name` in the checkpoint.
  void Link(const std::string& target, const std::string& name) { stdfs::create_symlink(target, At("in/" + name)); }

  Status List(const std::string& root = "in") {
    files_.clear();
    oddities_.clear();
    std::vector<CarriedFile> carried;
    MIMO_RETURN_IF_ERROR(ListCarried(PosixFileSystem(), At(root), &carried, &oddities_));
    for (const CarriedFile& file : carried) files_[file.name] = file.outside;
    return {};
  }
  std::string Real(const std::string& name) { return PosixFileSystem().RealPath(At(name)).value(); }

  ScratchDirectory scratch_;
  std::map<std::string, std::string> files_;
  std::vector<std::string> oddities_;
};

TEST_F(CarriedFilesTest, LinksInsideAreFollowed) {
  Link("tokenizer.json", "alias");
  Link("sub", "other");
  Link(At("in/sub/code.py"), "absolute");
  ASSERT_TRUE(List().ok());
  const std::map<std::string, std::string> expected = {
      {"absolute", ""}, {"alias", ""}, {"other/code.py", ""}, {"sub/code.py", ""}, {"tokenizer.json", ""}};
  EXPECT_EQ(files_, expected);
}

TEST_F(CarriedFilesTest, LinksThatLeaveAreNamedAndNotEntered) {
  Link(At("elsewhere/secret"), "direct");
  Link("../elsewhere/secret", "relative");
  Link(At("elsewhere"), "directory");
  Link("/", "root");
  stdfs::create_symlink(At("elsewhere/secret"), At("hop"));
  stdfs::create_symlink(At("hop"), At("in/sub/two-hops"));
  ASSERT_TRUE(List().ok());
  EXPECT_EQ(files_.at("direct"), Real("elsewhere/secret"));
  EXPECT_EQ(files_.at("relative"), Real("elsewhere/secret"));
  EXPECT_EQ(files_.at("sub/two-hops"), Real("elsewhere/secret"));
  EXPECT_EQ(files_.at("directory"), Real("elsewhere"));
  EXPECT_EQ(files_.at("root"), "/");
  EXPECT_EQ(files_.size(), 7u) << "what lies behind a link was listed";
}

TEST_F(CarriedFilesTest, ANameThatOnlyBeginsLikeTheCheckpointIsOutside) {
  Write("in-not/x");
  Link("../in-not/x", "x");
  ASSERT_TRUE(List().ok());
  EXPECT_EQ(files_.at("x"), Real("in-not/x"));
}

TEST_F(CarriedFilesTest, ASnapshotMayLeadIntoItsOwnBlobs) {
  Write("hub/blobs/c0ffee");
  Write("other/blobs/c0ffee");
  stdfs::create_directories(At("hub/snapshots/1/sub"));
  stdfs::create_symlink("../../blobs/c0ffee", At("hub/snapshots/1/a"));
  stdfs::create_symlink("../../../blobs/c0ffee", At("hub/snapshots/1/sub/b"));
  stdfs::create_symlink("../../../other/blobs/c0ffee", At("hub/snapshots/1/c"));
  stdfs::create_symlink("../../../elsewhere/secret", At("hub/snapshots/1/d"));
  stdfs::create_symlink("../2/e", At("hub/snapshots/1/e"));
  Write("hub/snapshots/2/e");
  ASSERT_TRUE(List("hub/snapshots/1").ok());
  EXPECT_EQ(files_.at("a"), "");
  EXPECT_EQ(files_.at("sub/b"), "");
  EXPECT_EQ(files_.at("c"), Real("other/blobs/c0ffee"));
  EXPECT_EQ(files_.at("d"), Real("elsewhere/secret"));
  EXPECT_EQ(files_.at("e"), Real("hub/snapshots/2/e"));
  ASSERT_TRUE(List("hub/snapshots/1/sub").ok());
  EXPECT_EQ(files_.at("b"), "");
  // By way of a link to the snapshot, and with blobs that lie on another disk.
  stdfs::create_directory_symlink(At("hub/snapshots/1"), At("alias"));
  stdfs::rename(At("hub/blobs"), At("moved"));
  stdfs::create_directory_symlink(At("moved"), At("hub/blobs"));
  ASSERT_TRUE(List("alias").ok());
  EXPECT_EQ(files_.at("a"), "");
  EXPECT_EQ(files_.at("d"), Real("elsewhere/secret"));
}

TEST_F(CarriedFilesTest, WhatIsNoFileIsRefusedByName) {
  ASSERT_EQ(::mkfifo(At("in/pipe").c_str(), 0600), 0);
  const Status pipe = List();
  ASSERT_FALSE(pipe.ok());
  EXPECT_EQ(pipe.error().code, ErrorCode::kBadInput);
  EXPECT_TRUE(pipe.error().file.ends_with("in/pipe"));
  stdfs::remove(At("in/pipe"));
  for (const auto& [target, name] : {std::pair("nowhere", "dangling"), std::pair("circle", "circle")}) {
    Link(target, name);
    const Status status = List();
    ASSERT_FALSE(status.ok()) << name;
    EXPECT_EQ(status.error().code, ErrorCode::kBadInput);
    EXPECT_TRUE(status.error().file.ends_with(name)) << status.error().Message();
    stdfs::remove(At(std::string("in/") + name));
  }
  for (const char* target : {".", "..", "/"}) {
    Link(target, "sub/up");
    const Status status = List();
    // Upward within the checkpoint it would never end; beyond, it is a link that leaves.
    EXPECT_EQ(status.ok(), std::string(target) == "/") << target;
    if (!status.ok()) {
      EXPECT_NE(status.error().what.find("that it lies in"), std::string::npos) << status.error().what;
    }
    stdfs::remove(At("in/sub/up"));
  }
}

TEST_F(CarriedFilesTest, LinksThatMultiplyDirectoriesEnd) {
  for (int level = 0; level < 14; ++level) {
    const std::string directory = "in/level" + std::to_string(level);
    stdfs::create_directory(At(directory));
    for (const char* name : {"/a", "/b", "/c", "/d"})
      stdfs::create_symlink("../level" + std::to_string(level + 1), At(directory + name));
  }
  Write("in/level14/x");
  const Status status = List();
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kBadInput);
  EXPECT_EQ(status.error().expected, "at most 1024");
}

TEST_F(CarriedFilesTest, WhatTheToolKeepsForItselfIsLeftOut) {
  Write("in/.mimo-partial");
  Write("in/.mimo-lease/owner");
  Write("in/sub/.mimo-x");
  ASSERT_TRUE(List().ok());
  EXPECT_EQ(files_.size(), 3u);
  EXPECT_TRUE(files_.contains("sub/.mimo-x"));
  ASSERT_EQ(oddities_.size(), 2u);
  EXPECT_NE(oddities_[1].find(".mimo-partial"), std::string::npos);
}

TEST_F(CarriedFilesTest, ALinkThatIsTurnedLaterIsNoticed) {
  FileSystem& fs = PosixFileSystem();
  Link("tokenizer.json", "alias");
  const CheckpointBounds bounds = CheckpointBounds::Of(fs, At("in")).value();
  EXPECT_EQ(RealPathOfCarried(fs, bounds, At("in"), "alias").value(), Real("in/tokenizer.json"));
  stdfs::remove(At("in/alias"));
  Link(At("elsewhere/secret"), "alias");
  const auto turned = RealPathOfCarried(fs, bounds, At("in"), "alias");
  ASSERT_FALSE(turned.ok());
  EXPECT_EQ(turned.error().code, ErrorCode::kBadInput);
  EXPECT_EQ(turned.error().found, Real("elsewhere/secret"));
}

}  // namespace
}  // namespace mimo::carried_files_test
