// Where paths lie, and the texts of links between them.
#include "lib/base/real_path.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/faults/scratch_directory.h"

namespace mimo::real_path_test {
namespace {

namespace stdfs = std::filesystem;

TEST(RealPath, OfWhatDoesNotExistYet) {
  const ScratchDirectory scratch;
  FileSystem& fs = PosixFileSystem();
  const std::string real = fs.RealPath(scratch.path()).value();
  stdfs::create_directory(scratch.File("a"));
  stdfs::create_directory_symlink(scratch.File("a"), scratch.File("link"));
  EXPECT_EQ(FutureRealPath(fs, scratch.File("link/new/deep/")).value(), real + "/a/new/deep");
  EXPECT_EQ(FutureRealPath(fs, scratch.File("link")).value(), real + "/a");
  EXPECT_EQ(FutureRealPath(fs, scratch.File("new/../other")).value(), real + "/other");
}

TEST(RealPath, InsideIsByComponents) {
  EXPECT_TRUE(IsInside("/a/b", "/a/b"));
  EXPECT_TRUE(IsInside("/a/b/c", "/a/b"));
  EXPECT_TRUE(IsInside("/a", "/"));
  EXPECT_FALSE(IsInside("/a/bc", "/a/b"));
  EXPECT_FALSE(IsInside("/a", "/a/b"));
}

TEST(RealPath, LinksAreRelativeInOneTreeAndAbsoluteBeyond) {
  EXPECT_EQ(LinkText("/w/s/x", "/w/o/x"), "../s/x");
  EXPECT_EQ(LinkText("/w/s/dflash/x", "/w/o/dflash/x"), "../../s/dflash/x");
  EXPECT_EQ(LinkText("/w/x", "/w/y"), "x");
  EXPECT_EQ(LinkText("/w/hub/blobs/c0ffee", "/w/a/b/o/x"), "../../../hub/blobs/c0ffee");
  EXPECT_EQ(LinkText("/mnt/s/x", "/w/o/x"), "/mnt/s/x");
  EXPECT_EQ(LinkText("/wide/s/x", "/w/o/x"), "/wide/s/x");
  EXPECT_EQ(LinkText("/x", "/o/x"), "/x");
  EXPECT_EQ(LinkText("/s/x", "/x"), "/s/x");
}

}  // namespace
}  // namespace mimo::real_path_test
