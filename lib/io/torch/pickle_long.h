// Integers of any length, as pickles have them.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace mimo {

// Little-endian two's complement; none for an integer beyond 64 bits.
inline std::optional<int64_t> IntegerOfLong(std::string_view raw) {
  uint64_t value = 0;
  const bool negative = !raw.empty() && static_cast<signed char>(raw.back()) < 0;
  for (size_t i = 0; i < raw.size(); ++i) {
    const auto byte = static_cast<unsigned char>(raw[i]);
    if (i >= 8 && byte != (negative ? 0xff : 0)) return std::nullopt;
    if (i < 8) value |= static_cast<uint64_t>(byte) << (8 * i);
  }
  if (negative && raw.size() < 8) value |= ~uint64_t{0} << (8 * raw.size());
  if ((static_cast<int64_t>(value) < 0) != negative) return std::nullopt;
  return static_cast<int64_t>(value);
}

}  // namespace mimo
