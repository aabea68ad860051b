// Bytes as JSON strings: hex digits for single elements, base64 for files that are not text.
#pragma once

#include <cstddef>
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
// A text as it may stand on a line of a terminal and in JSON. Bytes that are no UTF-8 and control characters of ASCII
// become "\xE9"; characters that a terminal or a reader would obey rather than show (U+0080 to U+009F, marks and
// overrides of direction, line separators) become "\u202E".
std::string Printable(std::string_view text);
// A JSON document in which the same characters within strings are escapes of JSON. Its values stay as they are.
std::string PrintableJson(std::string_view document);
// At most `most` bytes of a text, whole characters of UTF-8, and "..." where there is more.
std::string CutText(std::string_view text, size_t most);

}  // namespace mimo
