// CRC-32s of items are put together from parts in any order, and compared once each byte came; nothing that differs is
// published or recorded.
#include "lib/run/source_checks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "lib/results/manifest.h"
#include "lib/run/executor.h"
#include "tests/unit/run/lab.h"

namespace mimo::source_checks_test {
namespace {

using lab::Bytes;

// CRC-32 (IEEE 802.3), a bit at a time.
uint32_t BitwiseCrc(const Bytes& bytes) {
  uint32_t crc = 0xFFFFFFFFu;
  for (const uint8_t byte : bytes) {
    crc ^= byte;
    for (int i = 0; i < 8; ++i) crc = crc >> 1 ^ ((crc & 1) != 0 ? 0xEDB88320u : 0);
  }
  return ~crc;
}

// Arrays in items of their own: `whole` is needed whole, `most` but for its last rows, `some` hardly, `never` not at
// all; `copy` is a replica of `whole`, `bare` was saved without a CRC-32. The first three are each a file group.
struct Model {
  lab::Checkpoint checkpoint;
  lab::PlanBuilder builder{checkpoint};
  Bytes whole = lab::Random(1).Bf16(64 * 1024);
  Bytes most = lab::Random(2).Bf16(64 * 1024);

  Model() {
    const Bytes some = lab::Random(3).Bf16(1024 * 1024), rest = lab::Random(4).Bf16(1024);
    const std::vector<int64_t> shape = {64, 1024};
    checkpoint.AddFile("in.items", {{"bare", DType::kBF16, {1, 1024}, rest},
                                    {"copy", DType::kBF16, shape, whole},
                                    {"most", DType::kBF16, shape, most},
                                    {"never", DType::kBF16, {1, 1024}, rest},
                                    {"some", DType::kBF16, {1024, 1024}, some},
                                    {"whole", DType::kBF16, shape, whole}});
    Catalogue& catalogue = checkpoint.catalogue;
    for (StoredArray& array : catalogue.arrays) {
      const bool compared = array.bytes == whole.size();
      array.item = static_cast<uint32_t>(catalogue.items.size());
      const uint32_t crc = compared ? BitwiseCrc(array.name == "most" ? most : whole) : array.name == "bare" ? 0 : 1;
      catalogue.items.push_back({array.file, array.begin, array.bytes, crc});
    }
    Out(0, "whole", 0, 64);
    Out(1, "most", 0, 40);
    Out(2, "some", 7, 9);
    Out(2, "bare", 0, 1);
    builder.plan.equal = {{builder.Source("whole"), builder.Source("copy"), 0, 0, 64}};
    builder.Finish();
  }
  void Out(uint32_t group, const std::string& name, int64_t row, int64_t rows) {
    builder.File(name + ".safetensors", group);
    const uint32_t source = builder.Source(name);
    builder.Output(builder.Group(name), name, DType::kBF16, {rows, 1024}, Transform::kMove, {{source, row, 0, rows}});
  }
  const StoredArray& Array(const std::string& name) const {
    return checkpoint.catalogue.arrays[checkpoint.catalogue.by_name.at(name)];
  }
  void Flip(const std::string& name, uint64_t byte) const {
    Bytes file = lab::ReadFile(checkpoint.path("in.items"));
    file[Array(name).begin + byte] ^= 4;
    lab::WriteFile(checkpoint.path("in.items"), file);
  }
  Result<RunReport> Run(RunOptions options = {}) const {
    options.output = checkpoint.output();
    return RunPlan(PosixFileSystem(), checkpoint.catalogue, builder.plan, options);
  }
};

TEST(SourceChecks, CountsWhatIsComparedAndSaysWhatIsNot) {
  const Model model;
  for (const bool resumed : {false, true}) {
    RunOptions options;
    options.resume = resumed;
    auto report = model.Run(options);
    ASSERT_TRUE(report.ok()) << report.error().Message();
    EXPECT_EQ(report->checksums.verified, 3u);  // whole, its copy, most
    EXPECT_EQ(report->checksums.unverified, 2u);
    EXPECT_EQ(report->checksums.without, 1u);
    const std::vector<std::string> names = {"bare", "never", "some"};
    EXPECT_EQ(report->unverified, resumed ? std::vector<std::string>() : names);
  }
  auto manifest = ReadManifest(PosixFileSystem(), JoinPath(model.checkpoint.output(), kManifestName));
  ASSERT_TRUE(manifest.ok()) << manifest.error().Message();
  EXPECT_EQ(manifest->checksums.unverified, 2u);
}

// Every bit that reaches the output, and the rows of `most` that do not.
TEST(SourceChecks, AFlippedBitIsBadInputAndLeavesNothing) {
  for (const auto& [name, byte] : std::vector<std::pair<std::string, uint64_t>>{
           {"whole", 0}, {"whole", 131071}, {"most", 0}, {"most", 81919}, {"most", 81920}, {"most", 131071}}) {
    for (const int threads : {1, 3}) {
      for (const uint64_t memory : {64ull << 20, 60'000ull}) {
        Model model;
        model.builder.plan.equal.clear();
        model.Flip(name, byte);
        RunOptions options;
        options.threads = threads;
        options.memory_bytes = memory;
        auto report = model.Run(options);
        ASSERT_FALSE(report.ok()) << name << byte;
        EXPECT_EQ(report.error().code, ErrorCode::kBadInput);
        EXPECT_EQ(report.error().tensor, name);
        EXPECT_EQ(report.error().file, model.checkpoint.path("in.items"));
        EXPECT_FALSE(std::filesystem::exists(model.checkpoint.output()));
      }
    }
  }
  for (const char* name : {"some", "never", "bare"}) {
    const Model model;
    model.Flip(name, 5);
    EXPECT_TRUE(model.Run().ok()) << name;
  }
}

// Asks to stop after the first step, which is a file group.
struct Stopper : ProgressObserver {
  void Start(uint64_t) override {}
  void Advance(uint64_t) override { stop = ++steps == 1 ? 2 : 0; }
  void Step(const char*) override {}
  void Finish() override {}
  int steps = 0;
  std::atomic<int> stop = 0;
};

// A group that was recorded was compared; the run that resumes compares the others.
TEST(SourceChecks, AResumedRunComparesWhatItReads) {
  for (const bool recorded : {false, true}) {
    Model model;
    model.builder.plan.equal.clear();
    Stopper stopper;
    RunOptions options;
    options.threads = 1;
    options.stop = &stopper.stop;
    options.progress = &stopper;
    const auto stopped = model.Run(options);
    ASSERT_FALSE(stopped.ok());
    ASSERT_EQ(stopped.error().code, ErrorCode::kInterrupted);
    model.Flip(recorded ? "whole" : "most", 131071);
    options = {};
    options.resume = true;
    auto report = model.Run(options);
    ASSERT_EQ(report.ok(), recorded);
    if (!recorded) {
      EXPECT_EQ(report.error().tensor, "most");
    } else {
      EXPECT_EQ(report->groups_resumed, 1u);
      EXPECT_EQ(report->checksums.verified, 2u);
    }
  }
}

// Parts of any size, some again and overlapping, from several threads.
TEST(SourceChecks, PartsComeInAnyOrder) {
  for (uint32_t seed = 0; seed < 30; ++seed) {
    Model model;
    const bool damaged = seed % 2 != 0;
    if (damaged) model.Flip("whole", 77 * seed);
    const Bytes file = lab::ReadFile(model.checkpoint.path("in.items"));
    const auto bytes = std::as_bytes(std::span(file));
    const StoredArray& array = model.Array("whole");
    const Job job{model.checkpoint.catalogue, model.builder.plan,
                  std::vector<OutputMode>(model.builder.plan.outputs.size(), OutputMode::kWrite)};
    SourceChecks checks(job);
    std::mt19937 random(seed);
    std::vector<std::pair<uint64_t, uint64_t>> parts;
    for (uint64_t at = 0; at < array.bytes;) {
      const uint64_t n = std::min<uint64_t>(1 + random() % 9000, array.bytes - at);
      parts.emplace_back(at, n);
      at += n;
    }
    for (int again = 0; again < 20; ++again) {
      const uint64_t at = random() % array.bytes;
      parts.emplace_back(at, std::min<uint64_t>(random() % 30000, array.bytes - at));
    }
    std::shuffle(parts.begin(), parts.end(), random);
    std::atomic<size_t> next = 0, bad = 0;
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t)
      threads.emplace_back([&] {
        for (size_t i = next++; i < parts.size(); i = next++) {
          const uint64_t begin = array.begin + parts[i].first;
          bad += checks.Add(0, 0, array.file, begin, bytes.subspan(begin, parts[i].second)).ok() ? 0 : 1;
          EXPECT_TRUE(
              checks.Add(1, 1, array.file, begin, bytes.subspan(begin, 1)).ok());  // of another group: not taken
        }
      });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(bad, damaged ? 1u : 0u) << seed;
    uint64_t read = 0;
    const auto open = [](uint32_t) -> Result<std::shared_ptr<ReadableFile>> { return IoError("nothing is left"); };
    EXPECT_TRUE(checks.Finish(0, open, &read).ok());
    EXPECT_EQ(read, 0u);
  }
}

}  // namespace
}  // namespace mimo::source_checks_test
