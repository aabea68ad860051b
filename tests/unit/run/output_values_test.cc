// Whoever hashes the values of an output is shown what will be published, byte for byte, linked files too, by this run
// and by one that goes on; what it cannot do costs nothing that was made.
#include "lib/run/output_values.h"

#include <gtest/gtest.h>

#include "lib/run/executor.h"
#include "lib/run/value_hasher.h"
#include "tests/unit/run/lab.h"

namespace mimo::output_values_test {
namespace {

using lab::Bytes;

// Remembers all files that it is shown, and answers what it is told to.
class Watcher final : public ValueHasher {
 public:
  explicit Watcher(std::string root) : root_(std::move(root)) {}

  Status Check(FileSystem& planned, const std::string& root, const OpenOptions&) override {
    ++checks;
    EXPECT_EQ(root, root_);
    EXPECT_TRUE(planned.Stat(JoinPath(root, "b.safetensors")).value().has_value());
    return refuses_before ? Status(BadInput("no checkpoint")) : Status();
  }

  Result<std::vector<LogicalHash>> Hash(FileSystem& written, const std::string& root, const OpenOptions&,
                                        const std::function<Status()>& go_on) override {
    ++hashes;
    for (const char* name : {"a.safetensors", "b.safetensors", "text.json", "carried.bin"}) {
      MIMO_ASSIGN_OR_RETURN(const auto file, written.OpenForRead(JoinPath(root, name)));
      Bytes bytes(file->size());
      MIMO_RETURN_IF_ERROR(file->ReadAt(0, std::as_writable_bytes(std::span(bytes))));
      shown[name] = bytes;
    }
    MIMO_RETURN_IF_ERROR(go_on());
    if (fails) return *fails;
    return std::vector<LogicalHash>{
        {.name = "x", .shape = {2, 3}, .f32 = true, .fp32 = {1, 2}, .bf16 = {3, 4}},
        {.name = "y", .shape = {}, .values = false, .fp32 = {5, 6}, .bf16 = {}},
    };
  }

  bool refuses_before = false;
  std::optional<Error> fails;
  int checks = 0, hashes = 0;
  std::map<std::string, Bytes> shown;

 private:
  const std::string root_;
};

class OutputValuesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    lab::Random random(7);
    scratch_.AddFile("a.safetensors", {{"a", DType::kBF16, {16, 32}, random.Bf16(16 * 32)}});
    scratch_.AddFile("b.safetensors", {{"b", DType::kBF16, {8, 64}, random.Bf16(8 * 64)}});
    scratch_.AddCarried("carried.bin", random.Any(99));
    lab::PlanBuilder builder(scratch_);
    builder.File("a.safetensors", 0);
    const uint32_t source = builder.Source("a");
    builder.Output(builder.Group("a"), "renamed", DType::kBF16, {16, 32}, Transform::kMove, {{source, 0, 0, 16}});
    builder.UnchangedFile("b.safetensors", 1);
    builder.plan.carried = {"carried.bin"};
    builder.Text("text.json", "{}\n");
    plan_ = builder.Finish();
    options_.output = scratch_.output();
    options_.threads = 2;
    options_.memory_bytes = 64 << 20;
    options_.hash_values = &watcher_;
  }

  Result<RunReport> Run() { return RunPlan(PosixFileSystem(), scratch_.catalogue, plan_, options_); }
  std::map<std::string, Bytes> Published() const {
    auto files = lab::Tree(options_.output);
    files.erase("mimo-manifest.json");
    return files;
  }
  void Remove() { std::filesystem::remove_all(options_.output); }

  lab::Checkpoint scratch_;
  Plan plan_;
  RunOptions options_;
  Watcher watcher_{scratch_.output()};
};

TEST_F(OutputValuesTest, AreOfWhatIsPublished) {
  for (const LinkMode link : {LinkMode::kCopy, LinkMode::kHard, LinkMode::kSym}) {
    Remove();
    options_.link = link;
    auto run = Run();
    ASSERT_TRUE(run.ok()) << run.error().Message();
    EXPECT_EQ(run->values_hashed, 2u);
    auto manifest = ReadManifest(PosixFileSystem(), JoinPath(options_.output, "mimo-manifest.json"));
    ASSERT_TRUE(manifest.ok()) << manifest.error().Message();
    ASSERT_TRUE(manifest->logical_hashes.has_value());
    ASSERT_EQ(manifest->logical_hashes->size(), 2u);
    EXPECT_EQ(manifest->logical_hashes->front(),
              (LogicalHash{.name = "x", .shape = {2, 3}, .f32 = true, .fp32 = {1, 2}, .bf16 = {3, 4}}));
    EXPECT_EQ(manifest->logical_hashes->back().values, false);
    for (const auto& [name, bytes] : watcher_.shown)
      EXPECT_EQ(bytes == lab::ReadFile(JoinPath(options_.output, name)), true) << name;
    EXPECT_EQ(watcher_.shown.size(), 4u);
  }
}

TEST_F(OutputValuesTest, RefusedInAdvanceLeaveNothing) {
  watcher_.refuses_before = true;
  auto run = Run();
  ASSERT_FALSE(run.ok());
  EXPECT_EQ(run.error().code, ErrorCode::kUsage);
  EXPECT_NE(run.error().Message().find("no checkpoint"), std::string::npos);
  EXPECT_EQ(watcher_.hashes, 0);
  EXPECT_FALSE(std::filesystem::exists(options_.output));
}

TEST_F(OutputValuesTest, ThatFailAtTheEndCostNothingThatWasMade) {
  for (const ErrorCode code : {ErrorCode::kBadInput, ErrorCode::kCheckFailed, ErrorCode::kUsage, ErrorCode::kIo}) {
    Remove();
    options_.resume = false;
    options_.hash_values = &watcher_;
    Error error = BadInput("what was written is no checkpoint");
    error.code = code;
    watcher_.fails = error;
    const auto failed = Run();
    ASSERT_FALSE(failed.ok());
    EXPECT_EQ(failed.error().code, code == ErrorCode::kIo ? ErrorCode::kIo : ErrorCode::kUsage);
    EXPECT_TRUE(std::filesystem::exists(options_.output + "/.mimo-partial"));
    EXPECT_FALSE(std::filesystem::exists(options_.output + "/mimo-manifest.json"));
    options_.resume = true;
    if (code == ErrorCode::kIo)
      watcher_.fails.reset();
    else
      options_.hash_values = nullptr;
    watcher_.shown.clear();
    auto resumed = Run();
    ASSERT_TRUE(resumed.ok()) << resumed.error().Message();
    EXPECT_EQ(resumed->groups_resumed, 2u);
    EXPECT_EQ(resumed->values_hashed, code == ErrorCode::kIo ? 2u : 0u);
    if (code == ErrorCode::kIo) {
      EXPECT_EQ(watcher_.shown.at("a.safetensors") == Published().at("a.safetensors"), true);
    }
  }
}

TEST_F(OutputValuesTest, AreNotOfFilesThatSomebodyPutThere) {
  class Replacer final : public ValueHasher {
   public:
    explicit Replacer(std::string path) : path_(std::move(path)) {}
    Status Check(FileSystem&, const std::string&, const OpenOptions&) override { return {}; }
    Result<std::vector<LogicalHash>> Hash(FileSystem& written, const std::string& root, const OpenOptions&,
                                          const std::function<Status()>&) override {
      const Bytes bytes = lab::ReadFile(path_);
      std::filesystem::remove(path_);
      lab::WriteFile(path_, bytes);
      auto opened = written.OpenForRead(JoinPath(root, "a.safetensors"));
      EXPECT_FALSE(opened.ok());
      if (opened.ok()) return std::vector<LogicalHash>();
      return opened.error();
    }

   private:
    const std::string path_;
  } replacer(options_.output + "/.mimo-partial/files/a.safetensors");
  options_.hash_values = &replacer;
  auto run = Run();
  ASSERT_FALSE(run.ok());
  EXPECT_EQ(run.error().code, ErrorCode::kIo);
}

TEST_F(OutputValuesTest, AreAskedForOfACompleteOutput) {
  options_.hash_values = nullptr;
  ASSERT_TRUE(Run().ok());
  options_.resume = true;
  options_.hash_values = &watcher_;
  const auto without = Run();
  ASSERT_FALSE(without.ok());
  EXPECT_EQ(without.error().code, ErrorCode::kUsage);
  EXPECT_NE(without.error().Message().find("--hash-values"), std::string::npos);
  options_.resume = false;
  options_.overwrite = true;
  ASSERT_TRUE(Run().ok());
  options_.resume = true;
  options_.overwrite = false;
  auto with = Run();
  ASSERT_TRUE(with.ok()) << with.error().Message();
  EXPECT_EQ(with->values_hashed, 2u);
  EXPECT_EQ(watcher_.hashes, 1);
}

}  // namespace
}  // namespace mimo::output_values_test
