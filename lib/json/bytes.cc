#include "lib/json/bytes.h"

#include <cstddef>
#include <cstdint>

namespace mimo {
namespace {

constexpr std::string_view kHexDigits = "0123456789abcdef";
constexpr std::string_view kBase64Digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

uint32_t ByteAt(std::string_view text, size_t i) {
  return static_cast<unsigned char>(text[i]);
}

// Bytes of the sequence that begins at `i`; 0 where none does.
size_t SequenceAt(std::string_view text, size_t i) {
  const uint32_t first = ByteAt(text, i);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xC2 && first < 0xE0 ? 2 : first >= 0xE0 && first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
  if (first < 0xC2 || length == 0 || text.size() - i < length) return 0;
  uint32_t point = first & (0xFFu >> (length + 1));
  for (size_t k = 1; k < length; ++k) {
    const uint32_t byte = ByteAt(text, i + k);
    if ((byte & 0xC0) != 0x80) return 0;
    point = point << 6 | (byte & 0x3F);
  }
  const bool overlong = (length == 3 && point < 0x800) || (length == 4 && point < 0x10000);
  const bool none = (point >= 0xD800 && point < 0xE000) || point > 0x10FFFF;
  return overlong || none ? 0 : length;
}

// Of a sequence of `length` bytes at `i`.
uint32_t PointAt(std::string_view text, size_t i, size_t length) {
  uint32_t point = length == 1 ? ByteAt(text, i) : ByteAt(text, i) & (0xFFu >> (length + 1));
  for (size_t k = 1; k < length; ++k) point = point << 6 | (ByteAt(text, i + k) & 0x3F);
  return point;
}

// Whether a terminal or a reader obeys the character rather than showing it.
bool Draws(uint32_t point) {
  return point < 0x20 || (point >= 0x7F && point < 0xA0) || point == 0x61C || point == 0x200E || point == 0x200F ||
         (point >= 0x2028 && point <= 0x202E) || (point >= 0x2066 && point <= 0x2069) || point == 0xFEFF;
}

void AppendHex(std::string& out, uint32_t number, int digits) {
  static constexpr char kDigits[] = "0123456789ABCDEF";
  for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4) out += kDigits[number >> shift & 15];
}

}  // namespace

std::string HexOf(std::string_view bytes) {
  std::string out;
  for (size_t i = 0; i < bytes.size(); ++i) {
    out += kHexDigits[ByteAt(bytes, i) >> 4];
    out += kHexDigits[ByteAt(bytes, i) & 15];
  }
  return out;
}

std::optional<std::string> BytesOfHex(std::string_view digits) {
  if (digits.size() % 2 != 0) return std::nullopt;
  std::string bytes;
  for (size_t i = 0; i < digits.size(); i += 2) {
    const size_t high = kHexDigits.find(digits[i]), low = kHexDigits.find(digits[i + 1]);
    if (high == std::string_view::npos || low == std::string_view::npos) return std::nullopt;
    bytes += static_cast<char>(high * 16 + low);
  }
  return bytes;
}

std::string Base64Of(std::string_view bytes) {
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t count = bytes.size() - i < 3 ? bytes.size() - i : 3;
    uint32_t bits = 0;
    for (size_t k = 0; k < 3; ++k) bits = bits << 8 | (k < count ? ByteAt(bytes, i + k) : 0);
    for (size_t k = 0; k < 4; ++k) out += k <= count ? kBase64Digits[bits >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

std::optional<std::string> BytesOfBase64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  std::string bytes;
  for (size_t i = 0; i < text.size(); i += 4) {
    size_t digits = 4;
    if (i + 4 == text.size()) {
      while (digits > 2 && text[i + digits - 1] == '=') --digits;
    }
    uint32_t bits = 0;
    for (size_t k = 0; k < 4; ++k) {
      const size_t digit = k < digits ? kBase64Digits.find(text[i + k]) : 0;
      if (digit == std::string_view::npos) return std::nullopt;
      bits = bits << 6 | static_cast<uint32_t>(digit);
    }
    for (size_t k = 0; k + 1 < digits; ++k) bytes += static_cast<char>(bits >> (16 - 8 * k) & 0xFF);
    if ((digits == 2 && (bits & 0xFFFF) != 0) || (digits == 3 && (bits & 0xFF) != 0)) return std::nullopt;
  }
  return bytes;
}

bool IsUtf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const size_t length = SequenceAt(text, i);
    if (length == 0) return false;
    i += length;
  }
  return true;
}

std::string Printable(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t length = SequenceAt(text, i);
    const uint32_t point = length == 0 ? ByteAt(text, i) : PointAt(text, i, length);
    if (length > 1 && Draws(point)) {
      AppendHex(out += "\\u", point, 4);
    } else if (length == 0 || Draws(point)) {
      AppendHex(out += "\\x", point, 2);
    } else {
      out += text.substr(i, length);
    }
    i += length == 0 ? 1 : length;
  }
  return out;
}

std::string PrintableJson(std::string_view document) {
  std::string out;
  for (size_t i = 0; i < document.size();) {
    const size_t length = SequenceAt(document, i);
    const uint32_t point = length == 0 ? 0xFFFD : PointAt(document, i, length);
    if (length == 0 || (Draws(point) && point != '\n'))
      AppendHex(out += "\\u", point, 4);
    else
      out += document.substr(i, length);
    i += length == 0 ? 1 : length;
  }
  return out;
}

std::string CutText(std::string_view text, size_t most) {
  if (text.size() <= most) return std::string(text);
  size_t end = most;
  while (end > 0 && (ByteAt(text, end) & 0xC0) == 0x80) --end;
  return std::string(text.substr(0, end)) + "...";
}

}  // namespace mimo
