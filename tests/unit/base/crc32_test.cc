#include "lib/base/crc32.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

namespace mimo::crc32_test {
namespace {

// The definition, bit by bit: reflected polynomial 0xEDB88320.
uint32_t BitByBit(std::span<const std::byte> data) {
  uint32_t crc = 0xFFFFFFFFu;
  for (const std::byte b : data) {
    crc ^= static_cast<uint32_t>(b);
    for (int i = 0; i < 8; ++i) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xEDB88320u : 0);
  }
  return ~crc;
}

TEST(Crc32, CheckValue) {
  const std::string_view text = "123456789";
  EXPECT_EQ(Crc32(std::as_bytes(std::span(text))), 0xCBF43926u);
  EXPECT_EQ(Crc32({}), 0u);
}

TEST(Crc32, PartsInAnyOrderMakeTheWhole) {
  std::mt19937 random(5);
  std::vector<std::byte> data(100'003);
  for (std::byte& b : data) b = static_cast<std::byte>(random());
  const uint32_t whole = BitByBit(data);
  EXPECT_EQ(Crc32(data), whole);
  for (int round = 0; round < 20; ++round) {
    std::vector<size_t> cuts = {0, data.size()};
    for (int i = 0; i < round; ++i) cuts.push_back(random() % data.size());
    std::sort(cuts.begin(), cuts.end());
    std::vector<std::pair<size_t, size_t>> parts;
    for (size_t i = 0; i + 1 < cuts.size(); ++i) parts.emplace_back(cuts[i], cuts[i + 1]);
    std::shuffle(parts.begin(), parts.end(), random);
    uint32_t sum = 0;
    for (const auto& [begin, end] : parts)
      sum ^= Crc32OfPart(Crc32(std::span(data).subspan(begin, end - begin)), data.size() - end);
    EXPECT_EQ(sum, whole) << round;
  }
}

// Distances beyond 4 GiB: moving on twice is moving on once.
TEST(Crc32, FarParts) {
  const uint64_t far = (5ull << 30) + 17;
  EXPECT_EQ(Crc32OfPart(Crc32OfPart(0x12345678u, far), far), Crc32OfPart(0x12345678u, 2 * far));
}

}  // namespace
}  // namespace mimo::crc32_test
