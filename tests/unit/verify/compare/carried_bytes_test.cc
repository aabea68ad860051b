// Ranges of files against each other: what is counted, whatever the threads and the pieces that are read.
#include "lib/verify/compare/carried_bytes.h"

#include <gtest/gtest.h>

#include "tests/unit/run/lab.h"

namespace mimo::carried_bytes_test {
namespace {

TEST(CompareBytes, CountsElementsAndNamesTheFirst) {
  const ScratchDirectory directory;
  constexpr uint64_t kElements = 3 << 20;  // of 4 bytes: more than a thread takes at once
  lab::Bytes a = lab::Random(3).Any(4 * kElements), b(7, 0);
  b.insert(b.end(), a.begin(), a.end());
  lab::WriteFile(directory.File("a"), a);
  for (const uint64_t element : {uint64_t{5}, uint64_t{300'000}, kElements - 1}) {
    b[7 + 4 * element + 2] ^= 0x10;
    b[7 + 4 * element + 3] ^= 0x10;
  }
  lab::WriteFile(directory.File("b"), b);
  const BytePair whole{directory.File("a"), directory.File("b"), 0, 7, 4 * kElements, 4};
  const BytePair tail{directory.File("a"), directory.File("b"), 24, 31, 4 * kElements - 28, 4};
  const BytePair same{directory.File("a"), directory.File("b"), 24, 31, 4096, 4};
  const BytePair nothing{directory.File("a"), directory.File("b"), 0, 0, 0, 1};
  for (const int threads : {1, 3}) {
    const auto found = CompareBytes(PosixFileSystem(), PosixFileSystem(), {whole, tail, same, nothing}, threads);
    ASSERT_TRUE(found.ok());
    EXPECT_EQ(found.value()[0].elements, 3u);
    EXPECT_EQ(found.value()[0].first, 5u);
    EXPECT_EQ(found.value()[1].elements, 1u);
    EXPECT_EQ(found.value()[1].first, 300'000u - 6);
    EXPECT_EQ(found.value()[2].elements, 0u);
    EXPECT_EQ(found.value()[3].elements, 0u);
  }
}

TEST(CompareBytes, AFileThatEndsBeforeIsAnError) {
  const ScratchDirectory directory;
  lab::WriteFile(directory.File("a"), lab::Random(3).Any(10));
  const auto found =
      CompareBytes(PosixFileSystem(), PosixFileSystem(), {{directory.File("a"), directory.File("a"), 0, 5, 10, 1}}, 2);
  ASSERT_FALSE(found.ok());
  EXPECT_EQ(found.error().code, ErrorCode::kBadInput);
}

}  // namespace
}  // namespace mimo::carried_bytes_test
