// Hashes of stored tensors are those of their definition, whatever the strips and threads.
#include "lib/verify/rehash.h"

#include <gtest/gtest.h>

#include "tests/unit/run/lab.h"

namespace mimo {
namespace {

TEST(Rehash, ATensorOfSeveralStripsHashesByItsDefinition) {
  const ScratchDirectory directory;
  constexpr uint64_t kRowBytes = 7 << 20;
  lab::Bytes bytes = lab::Random(5).Any(5 + 6 * kRowBytes);
  lab::WriteFile(directory.File("t"), bytes);
  Hash128 expected;
  for (uint64_t r = 0; r < 6; ++r) {
    expected += HashBytes(std::as_bytes(std::span(bytes)).subspan(5 + r * kRowBytes, kRowBytes), r);
  }
  for (const int threads : {1, 3}) {
    const auto hashes =
        RehashTensors(PosixFileSystem(), {directory.File("t")}, {{0, 0, 5, 6, kRowBytes}}, threads, nullptr);
    ASSERT_TRUE(hashes.ok());
    EXPECT_EQ(hashes.value()[0], expected);
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
}  // namespace mimo
