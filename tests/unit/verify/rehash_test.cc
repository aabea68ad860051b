// Hashes of stored tensors are those of their definition, whatever the strips and threads.
#include "lib/verify/rehash.h"

#include <gtest/gtest.h>

#include "tests/unit/run/lab.h"

namespace mimo::rehash_test {
namespace {

// Rows larger than what is read at once, several to a read, and one.
TEST(Rehash, ATensorOfSeveralStripsHashesByItsDefinition) {
  constexpr uint64_t kBytes = 20 << 20;
  for (const uint64_t row_bytes : {uint64_t{7} << 20, uint64_t{600} << 10, uint64_t{1000}}) {
    const ScratchDirectory directory;
    const uint64_t rows = kBytes / row_bytes;
    lab::Bytes bytes = lab::Random(5).Any(5 + rows * row_bytes);
    lab::WriteFile(directory.File("t"), bytes);
    Hash128 expected;
    for (uint64_t r = 0; r < rows; ++r) {
      expected += HashBytes(std::as_bytes(std::span(bytes)).subspan(5 + r * row_bytes, row_bytes), r);
    }
    for (const int threads : {1, 3}) {
      const auto hashes =
          RehashTensors(PosixFileSystem(), {directory.File("t")}, {{0, 0, 5, rows, row_bytes}}, threads, nullptr);
      ASSERT_TRUE(hashes.ok());
      EXPECT_EQ(hashes.value()[0], expected) << row_bytes;
    }
  }
}

TEST(Rehash, ItemsOfSeveralFilesKeepTheirOrderAndEmptyOnesAreZero) {
  const ScratchDirectory directory;
  const lab::Bytes a = lab::Random(1).Any(12), b = lab::Random(2).Any(6);
  lab::WriteFile(directory.File("a"), a);
  lab::WriteFile(directory.File("b"), b);
  const std::vector<std::string> paths = {directory.File("a"), directory.File("b")};
  const auto hashes =
      RehashTensors(PosixFileSystem(), paths, {{0, 1, 0, 1, 6}, {1, 0, 8, 0, 4}, {2, 0, 4, 2, 4}}, 2, nullptr);
  ASSERT_TRUE(hashes.ok());
  EXPECT_EQ(hashes.value()[0], HashRows(std::as_bytes(std::span(b)), 6, 0));
  EXPECT_EQ(hashes.value()[1], Hash128());
  EXPECT_EQ(hashes.value()[2], HashRows(std::as_bytes(std::span(a)).subspan(4), 4, 0));
}

TEST(Rehash, TheFirstErrorEndsIt) {
  const auto hashes = RehashTensors(PosixFileSystem(), {"/nowhere/t"}, {{0, 0, 0, 1, 4}}, 2, nullptr);
  ASSERT_FALSE(hashes.ok());
  EXPECT_EQ(hashes.error().code, ErrorCode::kIo);
}

}  // namespace
}  // namespace mimo::rehash_test
