// Files that travel along are copied by several workers at once, among the steps of tensor files, within the memory
// budget, and come out as they went in.
#include "lib/run/carry.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>

#include "tests/faults/faulty_file_system.h"
#include "tests/faults/forwarding_file_system.h"
#include "tests/unit/run/model.h"

namespace mimo::carry_test {
namespace {

constexpr std::chrono::seconds kPatience(20);

// Holds back whoever opens one of `held` until all of `awaited` were opened too, for reading or for writing.
class Rendezvous : public ForwardingFileSystem {
 public:
  Rendezvous(std::set<std::string> held, std::set<std::string> awaited)
      : ForwardingFileSystem(PosixFileSystem()), held_(std::move(held)), awaited_(std::move(awaited)) {}

  Result<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) override {
    Meet("read " + path.substr(path.rfind('/') + 1));
    return ForwardingFileSystem::OpenForRead(path);
  }
  Result<std::unique_ptr<WritableFile>> OpenForWrite(const std::string& path, OpenMode mode) override {
    if (mode == OpenMode::kExisting) Meet("write " + path.substr(path.rfind('/') + 1));  // rows of tensors
    return ForwardingFileSystem::OpenForWrite(path, mode);
  }
  bool met() const { return awaited_.empty() && !late_; }

 private:
  void Meet(const std::string& name) {
    std::unique_lock lock(mutex_);
    awaited_.erase(name);
    all_.notify_all();
    if (held_.contains(name) && !all_.wait_for(lock, kPatience, [this] { return awaited_.empty(); })) late_ = true;
  }

  const std::set<std::string> held_;
  std::set<std::string> awaited_;
  std::mutex mutex_;
  std::condition_variable all_;
  bool late_ = false;
};

RunOptions Options(const lab::Model& model, int threads, const char* name = "") {
  RunOptions options;
  options.output = model.checkpoint.output() + name;
  options.threads = threads;
  options.memory_bytes = 4 << 20;
  return options;
}

TEST(Carry, SeveralAtOnce) {
  const lab::Model model;
  const std::set<std::string> both = {"read model.bin", "read tokenizer.json"};
  Rendezvous fs(both, both);
  const auto report = RunPlan(fs, model.catalogue(), model.plan(), Options(model, 2));
  ASSERT_TRUE(report.ok()) << report.error().Message();
  EXPECT_TRUE(fs.met()) << "one was copied after the other";
}

TEST(Carry, OthersGoOnWithTensorsMeanwhile) {
  const lab::Model model;
  Rendezvous fs({"read model.bin"}, {"write a.safetensors", "write b.safetensors", "read tokenizer.json"});
  const auto report = RunPlan(fs, model.catalogue(), model.plan(), Options(model, 2));
  ASSERT_TRUE(report.ok()) << report.error().Message();
  EXPECT_TRUE(fs.met()) << "tensors waited for a carried file";
}

TEST(Carry, TheSameBytesAndRecordsOnAnyNumberOfThreads) {
  const lab::Model model;
  const auto one = RunPlan(PosixFileSystem(), model.catalogue(), model.plan(), Options(model, 1));
  ASSERT_TRUE(one.ok()) << one.error().Message();
  const auto expected = lab::Tree(model.checkpoint.output());
  for (const char* name : {"tokenizer.json", "dflash/deep/model.bin"})
    EXPECT_EQ(expected.at(name), lab::ReadFile(model.checkpoint.path(name))) << name;
  const auto five = RunPlan(PosixFileSystem(), model.catalogue(), model.plan(), Options(model, 5, "5"));
  ASSERT_TRUE(five.ok()) << five.error().Message();
  EXPECT_EQ(lab::Tree(model.checkpoint.output() + "5"), expected);
  EXPECT_EQ(five.value().bytes_read, one.value().bytes_read);
  EXPECT_EQ(five.value().bytes_written, one.value().bytes_written);
  EXPECT_EQ(five.value().files_written, one.value().files_written);
}

TEST(Carry, EveryFileIsSyncedBeforeAnythingIsPublished) {
  const lab::Model model;
  FaultyFileSystem fs(PosixFileSystem());
  const auto report = RunPlan(fs, model.catalogue(), model.plan(), Options(model, 3));
  ASSERT_TRUE(report.ok()) << report.error().Message();
  std::set<std::string> synced;
  for (const LogEntry& entry : fs.Log()) {
    const std::string name = entry.path.substr(entry.path.rfind('/') + 1);
    if (entry.operation == Operation::kSync) synced.insert(name);
    if (entry.operation != Operation::kRename || !entry.path.ends_with("tokenizer.json")) continue;
    EXPECT_TRUE(synced.contains("tokenizer.json") && synced.contains("model.bin"));
  }
}

TEST(Carry, AFileThatChangedIsBadInputAndLeavesNothing) {
  const lab::Model model;
  lab::WriteFile(model.checkpoint.path("tokenizer.json"), {1, 2, 3});
  for (const int threads : {1, 4}) {
    const auto report = RunPlan(PosixFileSystem(), model.catalogue(), model.plan(), Options(model, threads));
    ASSERT_FALSE(report.ok());
    EXPECT_EQ(report.error().code, ErrorCode::kBadInput);
    EXPECT_TRUE(report.error().file.ends_with("tokenizer.json")) << report.error().Message();
    EXPECT_EQ(report.error().found, "3 bytes");
    EXPECT_FALSE(std::filesystem::exists(model.checkpoint.output()));
  }
}

TEST(Carry, PermissionsAreKeptAndPrivilegesAreNot) {
  const lab::Model model;
  const std::string tokenizer = model.checkpoint.path("tokenizer.json");
  for (const auto& [mode, kept] : {std::pair(0600u, 0600u), {0755u, 0755u}, {0444u, 0444u}, {06755u, 0755u}}) {
    ASSERT_EQ(::chmod(tokenizer.c_str(), mode), 0);
    const std::string out = "mode" + std::to_string(mode);
    const auto report = RunPlan(PosixFileSystem(), model.catalogue(), model.plan(), Options(model, 1, out.c_str()));
    ASSERT_TRUE(report.ok()) << report.error().Message();
    const auto info = PosixFileSystem().Stat(model.checkpoint.output() + out + "/tokenizer.json");
    EXPECT_EQ(info.value()->mode, kept);
  }
}

TEST(Carry, ALinkThatLeavesTheCheckpointByThenIsBadInput) {
  const lab::Model model;
  const std::string tokenizer = model.checkpoint.path("tokenizer.json");
  const std::string elsewhere = model.checkpoint.scratch() + "/secret";
  std::filesystem::rename(tokenizer, elsewhere);
  std::filesystem::create_symlink(elsewhere, tokenizer);
  const auto report = RunPlan(PosixFileSystem(), model.catalogue(), model.plan(), Options(model, 1));
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::kBadInput);
  EXPECT_TRUE(report.error().file.ends_with("tokenizer.json")) << report.error().Message();
  EXPECT_FALSE(std::filesystem::exists(model.checkpoint.output()));
}

}  // namespace
}  // namespace mimo::carry_test
