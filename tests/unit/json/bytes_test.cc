// Bytes as text in JSON: Base64 both ways, and what of it is UTF-8.
#include "lib/json/bytes.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace mimo {
namespace {

TEST(JsonBytes, Base64AsRfc4648SaysAndBack) {
  const std::vector<std::pair<std::string, std::string>> known = {{"", ""},
                                                                  {"f", "Zg=="},
                                                                  {"fo", "Zm8="},
                                                                  {"foo", "Zm9v"},
                                                                  {"foob", "Zm9vYg=="},
                                                                  {"fooba", "Zm9vYmE="},
                                                                  {"foobar", "Zm9vYmFy"},
                                                                  {"\xFB\xEF\xFF", "++//"}};
  for (const auto& [bytes, text] : known) {
    EXPECT_EQ(Base64Of(bytes), text);
    EXPECT_EQ(BytesOfBase64(text), bytes);
  }
  for (const char* bad : {"=", "====", "Zg=", "Z===", "Zg==Zg==", "Zh==", "Zm9=", "Zm9v\n"}) {
    EXPECT_FALSE(BytesOfBase64(bad).has_value()) << bad;
  }
}

TEST(JsonBytes, Utf8AsTheParserSees) {
  const auto parses = [](const std::string& text) { return nlohmann::json::accept("\"" + text + "\""); };
  for (uint32_t first = 0x80; first < 0x100; ++first) {
    for (uint32_t second = 0x20; second < 0x100; ++second) {
      if (second == '"' || second == '\\') continue;
      for (const std::string tail : {"", "\x80", "\x80\x80", "\xBF\xBF", "\x80x"}) {
        const std::string text{static_cast<char>(first), static_cast<char>(second)};
        ASSERT_EQ(IsUtf8(text + tail), parses(text + tail)) << first << " " << second << " " << tail.size();
      }
    }
  }
}

TEST(JsonBytes, WhatIsNoTextIsPrintedAsEscapes) {
  const std::pair<std::string, std::string> known[] = {{"", ""},
                                                       {"plain.txt", "plain.txt"},
                                                       {"caf\xC3\xA9.txt", "caf\xC3\xA9.txt"},
                                                       {"caf\xE9.txt", "caf\\xE9.txt"},
                                                       {"\xFF\xFE", "\\xFF\\xFE"},
                                                       {"a\nb\x7F", "a\\x0Ab\\x7F"},
                                                       {"\xE2\x82", "\\xE2\\x82"},
                                                       {"\xE2\x82\xAC\x80", "\xE2\x82\xAC\\x80"}};
  for (const auto& [bytes, text] : known) EXPECT_EQ(Printable(bytes), text);
}

}  // namespace
}  // namespace mimo
