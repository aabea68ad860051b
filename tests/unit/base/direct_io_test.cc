// Files past the page cache hold and give what files do, wherever requests begin and end.
#include "lib/base/direct_io.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>
#include <vector>

#include "tests/faults/scratch_directory.h"

namespace mimo {
namespace {

using Bytes = std::vector<std::byte>;

Bytes Random(size_t n, uint32_t seed) {
  std::mt19937 engine(seed);
  Bytes bytes(n);
  for (std::byte& b : bytes) b = static_cast<std::byte>(engine());
  return bytes;
}

// On a disk, or skipped: memory has no direct I/O.
class DirectIo : public ::testing::Test {
 protected:
  DirectIo() : directory_("/var/tmp") {}

  void SetUp() override {
    auto file = PosixFileSystem().OpenForWrite(path(), OpenMode::kCreateNew);
    ASSERT_TRUE(file.ok()) << file.error().Message();
    if (!file.value()->UseDirect().ok()) GTEST_SKIP() << "/var/tmp has no direct I/O";
  }
  std::string path() const { return directory_.File("data"); }
  Bytes ReadBack(size_t bytes) const {
    Bytes content(bytes);
    const auto file = PosixFileSystem().OpenForRead(path());
    EXPECT_TRUE(file.ok() && file.value()->size() == bytes && file.value()->ReadAt(0, content).ok());
    return content;
  }

  ScratchDirectory directory_;
};

TEST_F(DirectIo, PartsOfAnySizeMakeTheFile) {
  for (const uint32_t seed : {1u, 2u, 3u}) {
    const Bytes content = Random(7'000'003, seed);
    auto opened = PosixFileSystem().OpenForWrite(path(), OpenMode::kTruncate);
    ASSERT_TRUE(opened.ok());
    WritableFile& file = *opened.value();
    ASSERT_TRUE(file.Truncate(content.size()).ok());
    ASSERT_TRUE(file.Allocate().ok());
    ASSERT_TRUE(file.UseDirect().ok());
    std::mt19937 random(seed);
    std::vector<std::pair<size_t, size_t>> parts;
    for (size_t at = 0; at < content.size();) {
      const size_t n = std::min<size_t>(1 + random() % (random() % 3 == 0 ? 2'000'000 : 100'000), content.size() - at);
      parts.emplace_back(at, n);
      at += n;
    }
    std::shuffle(parts.begin(), parts.end(), random);
    std::atomic<size_t> next = 0, failed = 0;
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t)
      threads.emplace_back([&] {
        for (size_t i = next++; i < parts.size(); i = next++)
          failed +=
              file.WriteAt(parts[i].first, std::span(content).subspan(parts[i].first, parts[i].second)).ok() ? 0 : 1;
      });
    for (std::thread& thread : threads) thread.join();
    ASSERT_EQ(failed, 0u);
    ASSERT_TRUE(file.Sync().ok() && file.Close().ok());
    ASSERT_TRUE(ReadBack(content.size()) == content) << seed;

    const auto reader = PosixFileSystem().OpenForRead(path());
    ASSERT_TRUE(reader.ok() && reader.value()->UseDirect().ok());
    for (int round = 0; round < 60; ++round) {
      const size_t at = random() % content.size();
      Bytes part(std::min<size_t>(random() % 3'000'000, content.size() - at));
      ASSERT_TRUE(reader.value()->ReadAt(at, part).ok());
      ASSERT_TRUE(std::equal(part.begin(), part.end(), content.begin() + static_cast<ptrdiff_t>(at)));
    }
    Bytes beyond(200'000);
    const Status truncated = reader.value()->ReadAt(content.size() - 100'000, beyond);
    ASSERT_FALSE(truncated.ok());
    EXPECT_EQ(truncated.error().code, ErrorCode::kBadInput);
    EXPECT_FALSE(reader.value()->ReadAt(content.size() + 5, beyond).ok());
  }
}

// It is the file that is open, whatever has its name.
TEST_F(DirectIo, IsOfTheFileThatIsOpen) {
  const Bytes content = Random(300'000, 4);
  auto opened = PosixFileSystem().OpenForWrite(path(), OpenMode::kTruncate);
  ASSERT_TRUE(opened.ok());
  ASSERT_TRUE(opened.value()->WriteAt(0, Random(300'000, 5)).ok());
  std::filesystem::rename(path(), path() + ".moved");
  { std::ofstream other(path()); }
  ASSERT_TRUE(opened.value()->UseDirect().ok());
  ASSERT_TRUE(opened.value()->WriteAt(0, content).ok());
  ASSERT_TRUE(opened.value()->Close().ok());
  EXPECT_EQ(std::filesystem::file_size(path()), 0u);
  std::filesystem::rename(path() + ".moved", path());
  EXPECT_TRUE(ReadBack(content.size()) == content);
}

}  // namespace
}  // namespace mimo
