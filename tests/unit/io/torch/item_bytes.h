// Bytes of the tests of torch files: hexadecimal, SHA-256, files in memory.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "lib/base/file_system.h"

namespace mimo {

__extension__ typedef unsigned __int128 Wide;  // NOLINT(modernize-use-using)

inline std::string ToHex(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) {
    out += "0123456789abcdef"[static_cast<unsigned char>(c) >> 4U];
    out += "0123456789abcdef"[static_cast<unsigned char>(c) & 15U];
  }
  return out;
}

inline std::string FromHex(std::string_view hex) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  std::string out;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) out += static_cast<char>(digit(hex[i]) * 16 + digit(hex[i + 1]));
  return out;
}

// FIPS 180-4. The constants are the fractional parts of roots of primes, found here by integer arithmetic.
inline std::string Sha256(std::string message) {
  std::array<uint32_t, 64> k{};
  std::array<uint32_t, 8> h{};
  const auto fraction_of_root = [](uint64_t prime, int degree) {
    Wide low = 0;  // largest x with x^degree <= prime * 2^(32 * degree)
    for (int bit = 36; bit >= 0; --bit) {
      const Wide x = low | static_cast<Wide>(1) << bit;
      const bool fits =
          degree == 2 ? x * x <= static_cast<Wide>(prime) << 64 : x * x * x <= static_cast<Wide>(prime) << 96;
      if (fits) low = x;
    }
    return static_cast<uint32_t>(low);
  };
  for (uint64_t prime = 2, i = 0; i < 64; ++prime) {
    bool is_prime = true;
    for (uint64_t d = 2; d * d <= prime; ++d) is_prime = is_prime && prime % d != 0;
    if (!is_prime) continue;
    if (i < 8) h[i] = fraction_of_root(prime, 2);
    k[i++] = fraction_of_root(prime, 3);
  }
  const uint64_t bits = message.size() * 8;
  message += '\x80';
  while (message.size() % 64 != 56) message += '\0';
  for (int i = 7; i >= 0; --i) message += static_cast<char>(bits >> (8 * i));
  for (size_t at = 0; at < message.size(); at += 64) {
    std::array<uint32_t, 64> w{};
    for (size_t i = 0; i < 64; ++i) {
      if (i < 16) {
        for (size_t b = 0; b < 4; ++b) w[i] = w[i] << 8U | static_cast<unsigned char>(message[at + 4 * i + b]);
      } else {
        const uint32_t s0 = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ w[i - 15] >> 3U;
        const uint32_t s1 = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ w[i - 2] >> 10U;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
      }
    }
    std::array<uint32_t, 8> s = h;
    for (size_t i = 0; i < 64; ++i) {
      const uint32_t e = std::rotr(s[4], 6) ^ std::rotr(s[4], 11) ^ std::rotr(s[4], 25);
      const uint32_t a = std::rotr(s[0], 2) ^ std::rotr(s[0], 13) ^ std::rotr(s[0], 22);
      const uint32_t t1 = s[7] + e + ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
      const uint32_t t2 = a + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
      s = {t1 + t2, s[0], s[1], s[2], s[3] + t1, s[4], s[5], s[6]};
    }
    for (size_t i = 0; i < 8; ++i) h[i] += s[i];
  }
  std::string out;
  for (const uint32_t word : h) {
    for (int i = 3; i >= 0; --i) out += static_cast<char>(word >> (8 * i));
  }
  return ToHex(out);
}

// Counts its reads.
class MemoryFile final : public ReadableFile {
 public:
  explicit MemoryFile(std::string bytes) : bytes_(std::move(bytes)) {}
  Status ReadAt(uint64_t offset, std::span<std::byte> out) const override {
    ++reads;
    if (offset > bytes_.size() || out.size() > bytes_.size() - offset) {
      Error error;
      error.what = "truncated";
      error.file = "memory";
      return error;
    }
    if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
    return {};
  }
  uint64_t size() const override { return bytes_.size(); }

  mutable int reads = 0;

 private:
  std::string bytes_;
};

}  // namespace mimo
