// Files past the page cache hold and give what files do, wherever requests begin and end.
#include "lib/base/direct_io.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "lib/base/transfers.h"
#include "tests/faults/scratch_directory.h"

namespace mimo::direct_io_test {
namespace {

using Bytes = std::vector<std::byte>;

Bytes Random(size_t n, uint32_t seed) {
  std::mt19937 engine(seed);
  Bytes bytes(n);
  for (std::byte& b : bytes) b = static_cast<std::byte>(engine());
  return bytes;
}

Status Write(WritableFile& file, uint64_t offset, std::span<const std::byte> data) {
  const WriteRequest request{&file, offset, data};
  return WriteAll({&request, 1});
}

// With requests of a thread under way together, and one by one. On a disk, or skipped: memory has no direct I/O.
class DirectIo : public ::testing::TestWithParam<DirectMode> {
 protected:
  DirectIo() : directory_("/var/tmp") {}

  void SetUp() override {
    auto file = PosixFileSystem().OpenForWrite(path(), OpenMode::kCreateNew);
    ASSERT_TRUE(file.ok()) << file.error().Message();
    if (!file.value()->UseDirect(GetParam()).ok()) GTEST_SKIP() << "/var/tmp has no direct I/O";
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

struct Place {
  uint64_t at = 0;
  Bytes data;
  bool whole_blocks = false;
};

// All at once, from memory whose other bytes have to stay: those of blocks may change where that was allowed.
Status ReadPlaces(const ReadableFile& file, std::vector<Place>& places) {
  constexpr std::byte kOther{0xA5};
  struct Freer {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::vector<std::unique_ptr<std::byte, Freer>> memory;
  std::vector<ReadRequest> requests;
  std::vector<size_t> room;
  for (const Place& place : places) {
    const size_t bytes = UpToBlock(place.data.size()) + 3 * DirectBlock();
    memory.emplace_back(static_cast<std::byte*>(std::aligned_alloc(DirectBlock(), bytes)));
    std::fill_n(memory.back().get(), bytes, kOther);
    const size_t first = DirectBlock() + (place.whole_blocks ? place.at % DirectBlock() : 77);
    room.push_back(first);
    requests.push_back({&file, place.at, {memory.back().get() + first, place.data.size()}, place.whole_blocks});
  }
  if (Status read = ReadAll(requests); !read.ok()) return read;
  for (size_t i = 0; i < places.size(); ++i) {
    const std::byte* const begin = memory[i].get();
    const size_t end = room[i] + places[i].data.size();
    const size_t kept_before = places[i].whole_blocks ? DirectBlock() : room[i],
                 kept_after = places[i].whole_blocks ? UpToBlock(end) : end;
    EXPECT_TRUE(std::all_of(begin, begin + kept_before, [&](std::byte b) { return b == kOther; }));
    EXPECT_TRUE(std::all_of(begin + kept_after, begin + UpToBlock(places[i].data.size()) + 3 * DirectBlock(),
                            [&](std::byte b) { return b == kOther; }));
    std::copy(begin + room[i], begin + end, places[i].data.begin());
  }
  return {};
}

TEST_P(DirectIo, PartsOfAnySizeMakeTheFile) {
  for (const uint32_t seed : {1u, 2u, 3u}) {
    const Bytes content = Random(7'000'003, seed);
    auto opened = PosixFileSystem().OpenForWrite(path(), OpenMode::kTruncate);
    ASSERT_TRUE(opened.ok());
    WritableFile& file = *opened.value();
    ASSERT_TRUE(file.Truncate(content.size()).ok());
    ASSERT_TRUE(file.Allocate().ok());
    ASSERT_TRUE(file.UseDirect(GetParam()).ok());
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
              Write(file, parts[i].first, std::span(content).subspan(parts[i].first, parts[i].second)).ok() ? 0 : 1;
      });
    for (std::thread& thread : threads) thread.join();
    ASSERT_EQ(failed, 0u);
    ASSERT_TRUE(file.Sync().ok() && file.Close().ok());
    ASSERT_TRUE(ReadBack(content.size()) == content) << seed;

    const auto reader = PosixFileSystem().OpenForRead(path());
    ASSERT_TRUE(reader.ok() && reader.value()->UseDirect(GetParam()).ok());
    for (int round = 0; round < 30; ++round) {
      std::vector<Place> places(random() % 40);  // more than are under way at a time
      for (Place& place : places) {
        place.at = random() % content.size();
        place.data.resize(
            std::min<size_t>(random() % (random() % 4 == 0 ? 3'000'000 : 100'000), content.size() - place.at));
        place.whole_blocks = random() % 2 == 0;
      }
      ASSERT_TRUE(ReadPlaces(*reader.value(), places).ok());
      for (const Place& place : places)
        ASSERT_TRUE(
            std::equal(place.data.begin(), place.data.end(), content.begin() + static_cast<ptrdiff_t>(place.at)));
    }
    for (const bool whole_blocks : {false, true}) {
      std::vector<Place> beyond(3);
      for (size_t i = 0; i < beyond.size(); ++i)
        beyond[i] = {i == 1 ? content.size() - 100'000 : 0, Bytes(200'000), whole_blocks};
      const Status truncated = ReadPlaces(*reader.value(), beyond);
      ASSERT_FALSE(truncated.ok());
      EXPECT_EQ(truncated.error().code, ErrorCode::kBadInput);
      EXPECT_EQ(truncated.error().found, "100000 bytes");
      beyond[1].at = content.size() + 5;
      EXPECT_FALSE(ReadPlaces(*reader.value(), beyond).ok());
      beyond[1].at = UINT64_MAX - 5;
      EXPECT_FALSE(ReadPlaces(*reader.value(), beyond).ok());
    }
  }
}

// It is the file that is open, whatever has its name.
TEST_P(DirectIo, IsOfTheFileThatIsOpen) {
  const Bytes content = Random(300'000, 4);
  auto opened = PosixFileSystem().OpenForWrite(path(), OpenMode::kTruncate);
  ASSERT_TRUE(opened.ok());
  ASSERT_TRUE(opened.value()->WriteAt(0, Random(300'000, 5)).ok());
  std::filesystem::rename(path(), path() + ".moved");
  { std::ofstream other(path()); }
  ASSERT_TRUE(opened.value()->UseDirect(GetParam()).ok());
  ASSERT_TRUE(Write(*opened.value(), 0, content).ok());
  ASSERT_TRUE(opened.value()->Close().ok());
  EXPECT_EQ(std::filesystem::file_size(path()), 0u);
  std::filesystem::rename(path() + ".moved", path());
  EXPECT_TRUE(ReadBack(content.size()) == content);
}

INSTANTIATE_TEST_SUITE_P(Modes, DirectIo, ::testing::Values(DirectMode::kQueued, DirectMode::kSingle),
                         [](const auto& mode) { return mode.param == DirectMode::kQueued ? "Queued" : "Single"; });

}  // namespace
}  // namespace mimo::direct_io_test
