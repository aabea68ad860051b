// Arithmetic on sizes that come from files: every overflow is seen.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "lib/base/status.h"

namespace mimo {

inline std::optional<uint64_t> CheckedAdd(uint64_t a, uint64_t b) {
  uint64_t r = 0;
  if (__builtin_add_overflow(a, b, &r)) return std::nullopt;
  return r;
}
inline std::optional<uint64_t> CheckedMul(uint64_t a, uint64_t b) {
  uint64_t r = 0;
  if (__builtin_mul_overflow(a, b, &r)) return std::nullopt;
  return r;
}
inline constexpr int64_t CeilDiv(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// "5GB" (10^9), "5GiB" (2^30), "5G" (as GiB), plain bytes; decimals allowed ("1.5GiB"). kUsage otherwise.
Result<uint64_t> ParseSize(std::string_view text);
// "1.23 GB" style, decimal units, for people.
std::string FormatBytes(uint64_t bytes);

}  // namespace mimo
