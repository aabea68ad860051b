// What is linked, and that links are never written through.
#include "lib/run/publish.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "lib/results/manifest.h"
#include "tests/faults/faulty_file_system.h"
#include "tests/unit/run/model.h"

namespace mimo::publish_test {
namespace {

namespace stdfs = std::filesystem;
using lab::Convert;

// Renames of a publication.
uint64_t PublishedNames(const lab::Model& model) {
  return model.plan().files.size() + model.plan().texts.size() + model.plan().carried.size() + 1;
}

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
    EXPECT_NE(Inode(out + "/tokenizer.json"), Inode(model.checkpoint.path("tokenizer.json")));
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

// With a file of tensors among those that travel.
struct WithDraft : lab::Model {
  WithDraft() {
    checkpoint.AddCarried("dflash/draft.safetensors", lab::Bytes(900, 7));
    builder.plan.carried.insert(builder.plan.carried.begin(), "dflash/draft.safetensors");
  }
};

TEST(Publish, TensorFilesThatTravelAreLinkedAndWhatPeopleEditIsCopied) {
  const WithDraft model;
  for (const LinkMode mode : {LinkMode::kHard, LinkMode::kSym}) {
    RunOptions options;
    options.link = mode;
    options.overwrite = stdfs::exists(model.checkpoint.output());
    ASSERT_TRUE(Convert(model, options).ok());
    const std::string out = model.checkpoint.output();
    EXPECT_EQ(Inode(out + "/dflash/draft.safetensors"), Inode(model.checkpoint.path("dflash/draft.safetensors")));
    for (const char* name : {"/tokenizer.json", "/dflash/deep/model.bin", "/config.json"}) {
      EXPECT_FALSE(stdfs::is_symlink(out + name)) << name;
      EXPECT_EQ(stdfs::hard_link_count(out + name), 1u) << name;
    }
    const auto manifest = ReadManifest(PosixFileSystem(), out + "/mimo-manifest.json");
    ASSERT_TRUE(manifest.ok());
    for (const ManifestFile& file : manifest.value().other_files) {
      EXPECT_EQ(file.linked, file.name == "dflash/draft.safetensors") << file.name;
      EXPECT_EQ(file.hash.has_value(), !file.linked) << file.name;
    }
  }
}

TEST(Publish, SymbolicLinksAreRelativeToWhereTheyEndUp) {
  const WithDraft model;
  stdfs::create_directory(model.checkpoint.scratch() + "/real");
  stdfs::create_directory_symlink(model.checkpoint.scratch() + "/real", model.checkpoint.scratch() + "/alias");
  RunOptions options;
  options.link = LinkMode::kSym;
  options.output = model.checkpoint.scratch() + "/alias/a/b";
  ASSERT_TRUE(Convert(model, options).ok());
  const std::string root = stdfs::canonical(model.catalogue().root).filename();
  EXPECT_EQ(stdfs::read_symlink(options.output + "/c.safetensors"), "../../../" + root + "/c.safetensors");
  EXPECT_EQ(stdfs::read_symlink(options.output + "/dflash/draft.safetensors"),
            "../../../../" + root + "/dflash/draft.safetensors");
}

TEST(Publish, NamesThatAreNoUtf8AreLinkedToAndReplaced) {
  WithDraft model;
  const std::string root = model.checkpoint.scratch() + "/caf\xE9";
  stdfs::rename(model.catalogue().root, root);
  model.checkpoint.catalogue.root = root;
  RunOptions options;
  options.link = LinkMode::kSym;
  ASSERT_TRUE(Convert(model, options).ok());
  const std::string out = model.checkpoint.output();
  EXPECT_EQ(stdfs::read_symlink(out + "/c.safetensors"), "../caf\xE9/c.safetensors");
  lab::WriteFile(out + "/na\xEFve/old", {'o'});
  stdfs::create_symlink("\xFF", out + "/link");
  options.overwrite = true;
  const auto report = Convert(model, options);
  ASSERT_TRUE(report.ok()) << report.error().Message();
  EXPECT_FALSE(stdfs::exists(out + "/na\xEFve"));
  EXPECT_FALSE(stdfs::is_symlink(out + "/link"));
}

TEST(Publish, LinksAreWhatTheyShouldBeWhereverTheRunIsStopped) {
  for (const LinkMode mode : {LinkMode::kHard, LinkMode::kSym}) {
    const WithDraft model;
    RunOptions options;
    options.link = mode;
    options.threads = 1;
    options.output = model.checkpoint.output();
    FaultyFileSystem fs(PosixFileSystem());
    ASSERT_TRUE(RunPlan(fs, model.catalogue(), model.plan(), options).ok());
    const uint64_t calls = fs.Calls();
    const auto expected = lab::Tree(options.output);
    for (uint64_t at = 1; at <= calls; ++at) {
      stdfs::remove_all(options.output);
      FaultyFileSystem dying(PosixFileSystem());
      dying.SetFault({.at = at, .from_then_on = true});
      options.resume = false;
      ASSERT_FALSE(RunPlan(dying, model.catalogue(), model.plan(), options).ok()) << at;
      options.resume = true;
      FaultyFileSystem again(PosixFileSystem());
      const auto report = RunPlan(again, model.catalogue(), model.plan(), options);
      ASSERT_TRUE(report.ok()) << at << ": " << report.error().Message();
      ASSERT_EQ(lab::Tree(options.output), expected) << at;
      for (const char* name : {"/c.safetensors", "/dflash/draft.safetensors"})
        ASSERT_EQ(Inode(options.output + name), Inode(model.checkpoint.path(name + 1))) << at << name;
    }
  }
}

// What someone put in the place of a link since is not believed.
TEST(Publish, AResumedRunMakesItsLinksAgain) {
  const WithDraft model;
  RunOptions options;
  options.link = LinkMode::kSym;
  options.threads = 1;
  options.output = model.checkpoint.output();
  FaultyFileSystem dying(PosixFileSystem());
  ASSERT_TRUE(RunPlan(dying, model.catalogue(), model.plan(), options).ok());
  const uint64_t renames = dying.Calls(Operation::kRename);
  stdfs::remove_all(options.output);
  // Up to the last record, before the list of what is to be published.
  dying.SetFault({.at = renames - PublishedNames(model) - 1, .only = Operation::kRename, .from_then_on = true});
  ASSERT_FALSE(RunPlan(dying, model.catalogue(), model.plan(), options).ok());
  const std::string link = options.output + "/.mimo-partial/files/c.safetensors";
  ASSERT_TRUE(stdfs::is_symlink(link));
  stdfs::remove(link);
  stdfs::create_symlink(model.checkpoint.path("b.safetensors"), link);
  options.resume = true;
  const auto report = RunPlan(PosixFileSystem(), model.catalogue(), model.plan(), options);
  ASSERT_TRUE(report.ok()) << report.error().Message();
  EXPECT_GT(report.value().groups_resumed, 0u);
  EXPECT_EQ(Inode(options.output + "/c.safetensors"), Inode(model.checkpoint.path("c.safetensors")));
}

}  // namespace
}  // namespace mimo::publish_test
