// Bytes as JSON strings: hex digits for single elements, base64 for files that are not text.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace mimo {

// Two lower-case digits per byte.
std::string HexOf(std::string_view bytes);
std::optional<std::string> BytesOfHex(std::string_view digits);

// RFC 4648, padded. Reading takes exactly what writing makes: no other padding, no stray bits, no blanks.
std::string Base64Of(std::string_view bytes);
std::optional<std::string> BytesOfBase64(std::string_view text);

// Whether `text` can stand in JSON as it is: no overlong forms, surrogates or code points beyond U+10FFFF.
bool IsUtf8(std::string_view text);
// The same text where it can stand in JSON and on a line; other bytes and control characters as "\xE9".
std::string Printable(std::string_view text);

}  // namespace mimo
