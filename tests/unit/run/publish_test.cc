// What is linked, and that links are never written through.
#include "lib/run/publish.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "lib/results/manifest.h"
#include "tests/unit/run/model.h"

namespace mimo {
namespace {

namespace stdfs = std::filesystem;
using lab::Convert;

uint64_t Inode(const std::string& path) {
  struct stat info = {};
  return ::stat(path.c_str(), &info) == 0 ? info.st_ino : 0;
}

TEST(Publish, UnchangedFilesAreLinkedAndNothingElse) {
  const lab::Model model;
  const auto before = lab::Tree(model.catalogue().root);
  for (const LinkMode mode : {LinkMode::kHard, LinkMode::kSym}) {
    RunOptions options;
    options.link = mode;
    options.overwrite = stdfs::exists(model.checkpoint.output());
    const auto report = Convert(model, options);
    ASSERT_TRUE(report.ok()) << report.error().Message();
    const std::string out = model.checkpoint.output();
    EXPECT_EQ(Inode(out + "/c.safetensors"), Inode(model.checkpoint.path("c.safetensors")));
    EXPECT_EQ(stdfs::is_symlink(out + "/c.safetensors"), mode == LinkMode::kSym);
    EXPECT_EQ(Inode(out + "/tokenizer.json") == Inode(model.checkpoint.path("tokenizer.json")),
              mode == LinkMode::kHard);
    EXPECT_NE(Inode(out + "/a.safetensors"), Inode(model.checkpoint.path("a.safetensors")));
    const auto manifest = ReadManifest(PosixFileSystem(), out + "/mimo-manifest.json");
    ASSERT_TRUE(manifest.ok());
    EXPECT_TRUE(manifest.value().files[2].linked);
    EXPECT_FALSE(manifest.value().tensors.back().hash.has_value());
  }
  // Replacing an output whose files are hard links to the checkpoint must not write through them.
  RunOptions options;
  options.overwrite = true;
  ASSERT_TRUE(Convert(model, options).ok());
  EXPECT_EQ(lab::Tree(model.catalogue().root), before);
}

TEST(Publish, HashesOfLinkedFilesAreThoseOfCopies) {
  const lab::Model model;
  RunOptions options;
  ASSERT_TRUE(Convert(model, options).ok());
  const auto copied = ReadManifest(PosixFileSystem(), model.checkpoint.output() + "/mimo-manifest.json");
  options.overwrite = true;
  options.link = LinkMode::kHard;
  options.hash_linked = true;
  ASSERT_TRUE(Convert(model, options).ok());
  const auto linked = ReadManifest(PosixFileSystem(), model.checkpoint.output() + "/mimo-manifest.json");
  ASSERT_TRUE(copied.ok() && linked.ok());
  ASSERT_TRUE(linked.value().tensors.back().hash.has_value());
  for (size_t i = 0; i < copied.value().tensors.size(); ++i) {
    EXPECT_EQ(copied.value().tensors[i].hash, linked.value().tensors[i].hash);
  }
  for (size_t i = 0; i < copied.value().other_files.size(); ++i) {
    EXPECT_EQ(copied.value().other_files[i].hash, linked.value().other_files[i].hash);
  }
}

}  // namespace
}  // namespace mimo
