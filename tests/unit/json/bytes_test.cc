// Bytes as text in JSON: Base64 both ways, and what of it is UTF-8.
#include "lib/json/bytes.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace mimo::bytes_test {
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

TEST(JsonBytes, WhatATerminalWouldObeyIsPrintedAsEscapes) {
  const std::pair<std::string, std::string> known[] = {
      {"\x1b[2J\r\n", "\\x1B[2J\\x0D\\x0A"},
      {"\xc2\x9b"
       "31m",
       "\\u009B31m"},  // CSI of C1
      {"\xc2\x80\xc2\x9f\xc2\xa0", "\\u0080\\u009F\xc2\xa0"},
      {"\xe2\x80\xae"
       "gnp",
       "\\u202Egnp"},  // text from right to left
      {"\xe2\x80\xaa\xe2\x81\xa6\xe2\x81\xa9", "\\u202A\\u2066\\u2069"},
      {"\xe2\x80\xa8\xe2\x80\x8f\xef\xbb\xbf\xd8\x9c", "\\u2028\\u200F\\uFEFF\\u061C"},
      {"caf\xc3\xa9 \xf0\x9f\x98\x80 \xe2\x80\xa7\xe2\x81\xa5",
       "caf\xc3\xa9 \xf0\x9f\x98\x80 \xe2\x80\xa7\xe2\x81\xa5"}};
  for (const auto& [text, printed] : known) {
    EXPECT_EQ(Printable(text), printed);
    EXPECT_EQ(Printable(printed), printed);  // once is enough, twice does no harm
  }
}

TEST(JsonBytes, JsonKeepsItsValuesWhenItIsPrinted) {
  const std::string value = "a\x7f\xc2\x9b\xe2\x80\xae\n\"\xc3\xa9";
  const std::string text = nlohmann::json{{"k", value}}.dump(2);
  const std::string printed = PrintableJson(text);
  EXPECT_EQ(printed, "{\n  \"k\": \"a\\u007F\\u009B\\u202E\\n\\\"\xc3\xa9\"\n}");
  EXPECT_EQ(nlohmann::json::parse(printed)["k"], value);
  EXPECT_TRUE(nlohmann::json::accept(PrintableJson("\"\xff\"")));
}

TEST(JsonBytes, TextsAreCutBetweenCharacters) {
  EXPECT_EQ(CutText("abc", 3), "abc");
  EXPECT_EQ(CutText("abcd", 3), "abc...");
  EXPECT_EQ(CutText("ab\xc3\xa9", 3), "ab...");
}

}  // namespace
}  // namespace mimo::bytes_test
