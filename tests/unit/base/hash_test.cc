#include "lib/base/hash.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace mimo::hash_test {
namespace {

std::vector<std::byte> RandomBytes(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(n);
  for (auto& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

// Expected values: the Python package xxhash (another build of the reference code, another language around it).
std::vector<std::byte> Pattern() {
  std::vector<std::byte> bytes(3000);
  for (uint64_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>((i * i * 31 + 7 * i) % 251);
  return bytes;
}

TEST(HashBytes, KnownValues) {
  EXPECT_EQ(HashBytes({}).Hex(), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(HashBytes(Bytes("abc")).Hex(), "06b05ab6733a618578af5f94892f3950");
  EXPECT_EQ(HashBytes(Bytes("abc"), 7).Hex(), "8a3c1b87ceb230ee48ff56f569e39912");
  EXPECT_EQ(HashBytes(Pattern()).Hex(), "36e654e3fd3b21efa3c90178c16141e3");
  EXPECT_EQ(HashBytes(Pattern(), (uint64_t{1} << 40) + 5).Hex(), "bf10a24779bf48364b544e838d91112d");
}

TEST(HashRows, KnownValue) {
  EXPECT_EQ(HashRows(Pattern(), 500, 3).Hex(), "7af2bc5f7639df562e4f47f3fbeef53d");
}

TEST(HashBytes, SeedMatters) {
  EXPECT_NE(HashBytes(Bytes("abc"), 0), HashBytes(Bytes("abc"), 1));
  const auto bytes = RandomBytes(5000, 1);
  EXPECT_NE(HashBytes(bytes, 0), HashBytes(bytes, 1));
}

TEST(Hash128, AdditionCarriesAndWraps) {
  Hash128 sum{UINT64_MAX, 5};
  sum += Hash128{1, 0};
  EXPECT_EQ(sum, (Hash128{0, 6}));
  sum = {UINT64_MAX, UINT64_MAX};
  sum += Hash128{2, 0};
  EXPECT_EQ(sum, (Hash128{1, 0}));
}

TEST(Hash128, HexRoundTrip) {
  const Hash128 hash{0x0123456789abcdefu, 0xfedcba9876543210u};
  EXPECT_EQ(hash.Hex(), "fedcba98765432100123456789abcdef");
  Hash128 back;
  ASSERT_TRUE(Hash128::FromHex(hash.Hex(), &back));
  EXPECT_EQ(back, hash);
  for (const char* bad : {"", "fedcba98765432100123456789abcde", "fedcba98765432100123456789abcdef0",
                          "FEDCBA98765432100123456789abcdef", "gedcba98765432100123456789abcdef"}) {
    EXPECT_FALSE(Hash128::FromHex(bad, &back)) << bad;
  }
  EXPECT_EQ(back, hash) << "a failure leaves the result alone";
}

TEST(HashRows, IsTheSumOfRowHashesSeededWithTheRowNumber) {
  for (const uint64_t row_bytes : {1, 7, 16, 130, 241, 1000}) {
    const uint64_t rows = 9;
    const auto data = RandomBytes(rows * row_bytes, 2);
    // By hand, with a plain 128-bit integer.
    __extension__ unsigned __int128 sum = 0;
    for (uint64_t r = 0; r < rows; ++r) {
      const Hash128 h = HashBytes(std::span(data).subspan(r * row_bytes, row_bytes), 100 + r);
      sum += (static_cast<decltype(sum)>(h.high) << 64) | h.low;
    }
    const Hash128 expected{static_cast<uint64_t>(sum), static_cast<uint64_t>(sum >> 64)};
    EXPECT_EQ(HashRows(data, row_bytes, 100), expected) << row_bytes;
  }
}

TEST(HashRows, PartsMayBeAddedInAnyOrder) {
  const uint64_t row_bytes = 96;
  const uint64_t rows = 50;
  const auto data = RandomBytes(rows * row_bytes, 3);
  const Hash128 whole = HashRows(data, row_bytes, 0);
  std::vector<uint64_t> cuts = {0, 1, 2, 17, 18, 40, rows};
  std::vector<size_t> order(cuts.size() - 1);
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::mt19937 random(4);
  for (int round = 0; round < 20; ++round) {
    std::shuffle(order.begin(), order.end(), random);
    Hash128 sum;
    for (const size_t i : order) {
      const auto part = std::span(data).subspan(cuts[i] * row_bytes, (cuts[i + 1] - cuts[i]) * row_bytes);
      sum += HashRows(part, row_bytes, cuts[i]);
    }
    EXPECT_EQ(sum, whole);
  }
}

TEST(HashRows, SwappedRowsAreSeen) {
  const uint64_t row_bytes = 64;
  auto data = RandomBytes(4 * row_bytes, 5);
  const Hash128 before = HashRows(data, row_bytes, 0);
  std::swap_ranges(data.begin(), data.begin() + row_bytes, data.begin() + 2 * row_bytes);
  EXPECT_NE(HashRows(data, row_bytes, 0), before);
}

TEST(HashRows, NothingIsZero) {
  EXPECT_EQ(HashRows({}, 16, 0), Hash128{});
  EXPECT_EQ(HashRows({}, 0, 0), Hash128{});
}

TEST(StreamHash, EqualsHashBytesHoweverItIsCut) {
  const auto data = RandomBytes(10'000, 6);
  const Hash128 whole = HashBytes(data);
  for (const size_t step : {1, 63, 256, 1024, 9'999, 10'000}) {
    StreamHash hash;
    for (size_t at = 0; at < data.size(); at += step) {
      hash.Update(std::span(data).subspan(at, std::min(step, data.size() - at)));
    }
    hash.Update(std::span<const std::byte>());
    EXPECT_EQ(hash.Digest(), whole) << step;
  }
  StreamHash text;
  text.Update("ab");
  text.Update("c");
  EXPECT_EQ(text.Digest(), HashBytes(Bytes("abc")));
  EXPECT_EQ(StreamHash().Digest(), HashBytes({}));
}

}  // namespace
}  // namespace mimo::hash_test
