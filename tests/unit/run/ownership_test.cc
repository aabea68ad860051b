// What others do to OUT and to the checkpoint while a run is at work, or between two: what ends well is right, and what
// is not the run's is left alone.
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "lib/run/executor.h"
#include "tests/faults/forwarding_file_system.h"
#include "tests/unit/run/model.h"

namespace mimo::ownership_test {
namespace {

namespace stdfs = std::filesystem;

// Lets a test do something just before or after calls, which are named "open NAME", "rename NAME" and "remove NAME".
class Moments final : public ForwardingFileSystem {
 public:
  using Deed = std::function<void(const std::string& call)>;
  Moments(Deed before, Deed after)
      : ForwardingFileSystem(PosixFileSystem()), before_(std::move(before)), after_(std::move(after)) {}

  template <class Call>
  auto Do(const std::string& what, const std::string& path, Call call) {
    const std::string name = what + " " + path.substr(path.rfind('/') + 1);
    if (before_) before_(name);
    auto result = call();
    if (after_) after_(name);
    return result;
  }

  Result<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) override {
    return Do("open", path, [&] { return ForwardingFileSystem::OpenForRead(path); });
  }
  Status Rename(const std::string& from, const std::string& to) override {
    return Do("rename", to, [&] { return ForwardingFileSystem::Rename(from, to); });
  }
  Status RemoveAll(const std::string& path) override {
    return Do("remove", path, [&] { return ForwardingFileSystem::RemoveAll(path); });
  }

 private:
  const Deed before_, after_;
};

class Ownership : public testing::Test {
 protected:
  Ownership() {
    EXPECT_TRUE(Run().ok());
    expected_ = lab::Tree(out_);
    stdfs::remove_all(out_);
    for (CatalogueFile& file : model_.checkpoint.catalogue.files)
      file.stamp = StampOf(*PosixFileSystem().Stat(model_.checkpoint.path(file.name)).value());
  }

  Result<RunReport> Run() { return Run(PosixFileSystem()); }
  Result<RunReport> Run(FileSystem& fs) {
    options_.output = out_;
    options_.threads = 1;
    return RunPlan(fs, model_.catalogue(), model_.plan(), options_);
  }
  // A run in which `deed` is done once, when `call` was just made.
  Result<RunReport> RunWith(const std::string& call, const std::function<void()>& deed, bool before = false) {
    bool done = false;
    const Moments::Deed once = [&](const std::string& made) {
      if (made == call && !std::exchange(done, true)) deed();
    };
    Moments fs(before ? once : nullptr, before ? nullptr : once);
    auto report = Run(fs);
    EXPECT_TRUE(done) << call;
    return report;
  }
  // A run that was stopped when it had made its records, and not its publish.json.
  void Stop() {
    options_.overwrite = stdfs::exists(out_);
    std::atomic<int> stop = 0;
    options_.stop = &stop;
    const auto report = RunWith("rename 0001.json", [&] { stop = 15; });
    options_ = {};
    ASSERT_FALSE(report.ok());
    ASSERT_EQ(report.error().code, ErrorCode::kInterrupted) << report.error().Message();
  }
  void ExpectResumes() {
    options_ = {};
    options_.resume = true;
    const auto report = Run();
    ASSERT_TRUE(report.ok()) << report.error().Message();
    EXPECT_EQ(lab::Tree(out_), expected_);
    EXPECT_FALSE(stdfs::exists(out_ + "/.mimo-partial"));
  }
  std::string Partial(const std::string& name) const { return out_ + "/.mimo-partial/" + name; }

  lab::Model model_;
  const std::string out_ = model_.checkpoint.output();
  std::map<std::string, lab::Bytes> expected_;
  RunOptions options_;
};

TEST_F(Ownership, AFileThatIsRemovedOrCutWhileItIsMadeIsNotPublished) {
  const std::string file = Partial("files/b.safetensors");
  for (const bool cut : {false, true}) {
    const auto report = RunWith("rename 0000.json", [&] {
      if (cut)
        stdfs::resize_file(file, 0);
      else
        stdfs::remove(file);
    });
    ASSERT_FALSE(report.ok());
    EXPECT_EQ(report.error().code, ErrorCode::kIo) << report.error().Message();
    EXPECT_FALSE(stdfs::exists(out_ + "/mimo-manifest.json"));
    ExpectResumes();
    stdfs::remove_all(out_);
    options_ = {};
  }
}

TEST_F(Ownership, ACarriedFileOrATextThatIsExchangedIsNotPublished) {
  for (const char* name : {"tokenizer.json", "config.json", "mimo-manifest.json"}) {
    const std::string file = Partial(std::string("files/") + name);
    const auto report = RunWith("rename publish.json", [&] {
      lab::Bytes bytes = lab::ReadFile(file);
      bytes[3] ^= 1;
      lab::WriteFile(file + ".other", bytes);
      stdfs::rename(file + ".other", file);
    });
    ASSERT_FALSE(report.ok()) << name;
    EXPECT_EQ(report.error().code, ErrorCode::kIo) << report.error().Message();
    EXPECT_FALSE(stdfs::exists(out_ + "/mimo-manifest.json")) << name;
    ExpectResumes();
    stdfs::remove_all(out_);
    options_ = {};
  }
}

TEST_F(Ownership, AListThatIsChangedAfterItWasWrittenIsNotFollowed) {
  for (const auto& [from, to] :
       {std::pair("\"name\":\"tokenizer.json\"", "\"name\":\"tokenizer.jso2\""),
        std::pair("\"overwrite\":false", "\"overwrite\":true"), std::pair("\"inode\":", "\"inode\":1")}) {
    const auto report = RunWith("rename publish.json", [&, &from = from, &to = to] {
      const lab::Bytes bytes = lab::ReadFile(Partial("publish.json"));
      std::string text(bytes.begin(), bytes.end());
      text.replace(text.find(from), std::strlen(from), to);
      lab::WriteFile(Partial("publish.json"), {text.begin(), text.end()});
      lab::WriteFile(out_ + "/thesis.tex", {'x'});
    });
    EXPECT_TRUE(stdfs::exists(out_ + "/thesis.tex")) << from;
    if (report.ok()) {
      stdfs::remove(out_ + "/thesis.tex");
      EXPECT_EQ(lab::Tree(out_), expected_) << from;
    }
    stdfs::remove_all(out_);
    options_ = {};
  }
}

TEST_F(Ownership, WhatHasComeInTheMeantimeIsNotRemovedWithTheOld) {
  for (const bool taken_over : {false, true}) {
    ASSERT_TRUE(Run().ok());
    lab::WriteFile(out_ + "/old-a.txt", {'a'});
    lab::WriteFile(out_ + "/old-b.txt", {'b'});
    options_.overwrite = true;
    const auto report = RunWith("remove old-a.txt", [&] {
      lab::WriteFile(out_ + "/new", {'n'});
      stdfs::rename(out_ + "/new", out_ + "/old-b.txt");  // another file of the same length
      if (taken_over) stdfs::remove(Partial("lease.json"));
    });
    EXPECT_EQ(report.ok(), !taken_over);
    ASSERT_TRUE(stdfs::exists(out_ + "/old-b.txt")) << taken_over;
    EXPECT_EQ(lab::ReadFile(out_ + "/old-b.txt"), lab::Bytes{'n'});
    EXPECT_FALSE(stdfs::exists(out_ + "/old-a.txt"));
    stdfs::remove_all(out_);
    options_ = {};
  }
}

TEST_F(Ownership, ASourceThatIsExchangedWhileItIsOpenedIsFound) {
  const std::string source = model_.checkpoint.path("b.safetensors");
  const lab::Bytes bytes = lab::ReadFile(source);
  bool away = false;
  Moments fs(
      [&](const std::string& call) {
        if (call != "open b.safetensors" || std::exchange(away, true)) return;
        stdfs::rename(source, source + ".aside");
        lab::Bytes other = bytes;
        other.back() ^= 1;
        lab::WriteFile(source, other);
      },
      [&](const std::string& call) {
        if (call == "open b.safetensors" && stdfs::exists(source + ".aside")) stdfs::rename(source + ".aside", source);
      });
  const auto report = Run(fs);
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::kBadInput);
  EXPECT_NE(report.error().what.find("changed"), std::string::npos);
}

TEST_F(Ownership, ASourceThatGoesKeepsWhatWasMade) {
  const std::string source = model_.checkpoint.path("b.safetensors");
  const auto report = RunWith("rename 0000.json", [&] { stdfs::rename(source, source + ".aside"); });
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::kBadInput) << report.error().Message();
  EXPECT_TRUE(stdfs::exists(Partial("records/0000.json")));
  stdfs::rename(source + ".aside", source);
  ExpectResumes();
}

TEST_F(Ownership, ACompleteOutputIsLookedAtBeforeItIsSaidToBe) {
  options_.resume = true;
  for (const char* name : {"a.safetensors", "config.json", "tokenizer.json"}) {
    ASSERT_TRUE(Run().ok());
    stdfs::remove(out_ + "/" + name);
    const auto report = Run();
    ASSERT_FALSE(report.ok()) << name;
    EXPECT_EQ(report.error().code, ErrorCode::kUsage);
    EXPECT_TRUE(report.error().file.ends_with(name));
    EXPECT_TRUE(stdfs::exists(out_ + "/mimo-manifest.json"));
    stdfs::remove_all(out_);
  }
  ASSERT_TRUE(Run().ok());
  options_.thresholds = {{"all", 100.0}};
  options_.measure_errors = true;
  EXPECT_FALSE(Run().ok()) << "it was made without a threshold";
}

TEST_F(Ownership, WhatComesToThePathOfOutIsNotRemovedByARunThatFails) {
  const std::string moved = out_ + "-moved";
  model_.checkpoint.catalogue.arrays[0].begin += uint64_t{1} << 40;  // no such row: bad input in the middle of the run
  for (const bool link : {false, true}) {
    const auto report = RunWith("rename state.json", [&] {
      stdfs::rename(out_, moved);
      if (link)
        stdfs::create_directory_symlink(moved, out_);
      else
        lab::WriteFile(out_, {'p'});
    });
    EXPECT_FALSE(report.ok());
    EXPECT_TRUE(stdfs::exists(stdfs::symlink_status(out_))) << link;
    stdfs::remove(out_);
    stdfs::remove_all(moved);
  }
}

// Sees the checkpoint alone; OUT is the system's, by its descriptor.
class SourceMoments final : public ForwardingFileSystem {
 public:
  explicit SourceMoments(std::function<void()> deed)
      : ForwardingFileSystem(PosixFileSystem()), deed_(std::move(deed)) {}
  Result<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) override {
    if (path.ends_with("/b.safetensors")) std::exchange(deed_, [] {})();
    return ForwardingFileSystem::OpenForRead(path);
  }
  Result<std::unique_ptr<FileSystem>> Beneath(const std::string& root) override {
    return PosixFileSystem().Beneath(root);
  }

 private:
  std::function<void()> deed_;
};

TEST_F(Ownership, AnOutputThatWasMovedAwayIsSaidToBe) {
  SourceMoments fs([&] { stdfs::rename(out_, out_ + "-moved"); });
  const auto report = Run(fs);
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::kIo);
  EXPECT_EQ(lab::Tree(out_ + "-moved"), expected_) << "complete all the same";
  EXPECT_FALSE(stdfs::exists(out_));
}

TEST_F(Ownership, OddThingsInThePartialDirectoryCostTheirGroupAtMost) {
  const auto directory = [](const std::string& path) {
    stdfs::remove_all(path);
    stdfs::create_directories(path + "/full");
  };
  for (const char* name : {"records/0000.json", "records/0001.json.tmp", "publish.json.tmp", "files/c.safetensors",
                           "files/config.json", "files/tokenizer.json"}) {
    Stop();
    directory(Partial(name));
    ExpectResumes();
    stdfs::remove_all(out_);
    options_ = {};
  }
  for (const char* name : {"records", "files"}) {
    Stop();
    stdfs::remove_all(Partial(name));
    ExpectResumes();
    stdfs::remove_all(out_);
    options_ = {};
  }
  for (const char* name : {"state.json", "publish.json"}) {
    Stop();
    directory(Partial(name));
    options_ = {};
    options_.overwrite = true;
    const auto report = Run();
    ASSERT_TRUE(report.ok()) << name << ": " << report.error().Message();
    EXPECT_EQ(lab::Tree(out_), expected_);
    stdfs::remove_all(out_);
    options_ = {};
  }
}

}  // namespace
}  // namespace mimo::ownership_test
