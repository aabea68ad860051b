#include "lib/base/checked.h"

#include <array>
#include <cstdio>

namespace mimo {
namespace {

Error NotASize(std::string_view text, std::string expected) {
  return UsageError("not a size")
      .Expected(std::move(expected))
      .Found('"' + std::string(text) + '"')
      .Advice("write for example 5GB (10^9 bytes each) or 5GiB (2^30 bytes each)");
}

// Bytes of a unit, any case: "", B, K, KB, KiB up to T; nullopt when unknown.
std::optional<uint64_t> UnitBytes(std::string_view unit) {
  std::string lower;
  for (const char c : unit) lower += (c >= 'A' && c <= 'Z') ? static_cast<char>(c - 'A' + 'a') : c;
  if (lower.empty() || lower == "b") return 1;
  const size_t power = std::string_view("kmgt").find(lower[0]);
  if (power == std::string_view::npos) return std::nullopt;
  const std::string suffix = lower.substr(1);
  uint64_t base = 1024;
  if (suffix == "b") {
    base = 1000;
  } else if (!suffix.empty() && suffix != "ib") {
    return std::nullopt;
  }
  uint64_t bytes = 1;
  for (size_t i = 0; i <= power; ++i) bytes *= base;
  return bytes;
}

}  // namespace

Result<uint64_t> ParseSize(std::string_view text) {
  size_t i = 0;
  const auto digit = [&] { return i < text.size() && text[i] >= '0' && text[i] <= '9'; };
  std::optional<uint64_t> whole = 0;
  for (; digit(); ++i) {
    if (whole) whole = CheckedMul(*whole, 10);
    if (whole) whole = CheckedAdd(*whole, static_cast<uint64_t>(text[i] - '0'));
  }
  if (i == 0) return NotASize(text, "a number");
  std::string_view fraction;
  if (i < text.size() && text[i] == '.') {
    const size_t begin = ++i;
    while (digit()) ++i;
    fraction = text.substr(begin, i - begin);
    if (fraction.empty()) return NotASize(text, "digits after the point");
  }
  while (i < text.size() && text[i] == ' ') ++i;
  const auto unit = UnitBytes(text.substr(i));
  if (!unit) return NotASize(text, "one of the units B, KB, MB, GB, TB, KiB, MiB, GiB, TiB, K, M, G, T");
  if (*unit == 1 && !fraction.empty()) return NotASize(text, "a whole number of bytes");
  // Digit by digit in whole numbers: unit stays below 2^41, so nothing overflows; below a byte is dropped.
  uint64_t part = 0;
  for (size_t k = fraction.size(); k-- > 0;) part = (part + static_cast<uint64_t>(fraction[k] - '0') * *unit) / 10;
  std::optional<uint64_t> bytes = whole ? CheckedMul(*whole, *unit) : std::nullopt;
  if (bytes) bytes = CheckedAdd(*bytes, part);
  if (!bytes) return NotASize(text, "less than 2^64 bytes");
  return *bytes;
}

std::string FormatBytes(uint64_t bytes) {
  static constexpr std::array<const char*, 7> kUnits = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
  if (bytes < 1000) return std::to_string(bytes) + " B";
  // Hundredths of the unit, rounded; the next unit when that would print 1000.00.
  uint64_t unit = 1000;
  for (size_t i = 1; i < kUnits.size(); ++i, unit *= 1000) {
    const uint64_t step = unit / 100;
    const uint64_t hundredths = bytes / step + (bytes % step >= step / 2 ? 1 : 0);
    if (hundredths >= 100'000 && i + 1 < kUnits.size()) continue;
    char text[48];
    std::snprintf(text, sizeof text, "%llu.%02llu %s", static_cast<unsigned long long>(hundredths / 100),
                  static_cast<unsigned long long>(hundredths % 100), kUnits[i]);
    return text;
  }
  return {};
}

}  // namespace mimo
