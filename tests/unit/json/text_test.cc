// Text that is written by hand is the JSON that a parser reads, and lies on the lines that were asked for.
#include "lib/json/text.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <vector>

namespace mimo::text_test {
namespace {

TEST(JsonText, EveryStringReadsBack) {
  for (int c = 0; c < 0x80; ++c) {
    const std::string text = std::string("a") + static_cast<char>(c) + "b";
    std::string out;
    AppendJsonString(out, text);
    EXPECT_EQ(nlohmann::json::parse(out), text) << c;
    EXPECT_EQ(out.find('\n'), std::string::npos);
  }
}

TEST(JsonText, NumbersReadBack) {
  std::string out;
  AppendIntegers(out += '[', INT64_MIN, UINT64_MAX, int32_t{-7}, uint32_t{0});
  out += ']';
  EXPECT_EQ(out, "[-9223372036854775808,18446744073709551615,-7,0]");
}

TEST(JsonText, ListsOfNoneOneAndTwo) {
  const char* const kOneLine[] = {"[]", "[1]", "[1,2]"};
  const char* const kLines[] = {"[]", "[\n1\n]", "[\n1,\n2\n]"};
  for (int count = 0; count < 3; ++count) {
    std::string one, lines;
    JsonList a(one), b(lines, "\n");
    for (int i = 1; i <= count; ++i) {
      AppendInteger(a.Next(), i);
      AppendInteger(b.Next(), i);
    }
    a.Close();
    b.Close("\n");
    EXPECT_EQ(one, kOneLine[count]);
    EXPECT_EQ(lines, kLines[count]);
  }
}

TEST(JsonText, Objects) {
  std::string out;
  JsonObject object(out);
  object.String("s", "a\"b");
  object.Number("n", -1);
  object.Bool("t", true);
  object.StringList("names", std::vector<std::string>{"x", "y"});
  object.NumberList("sizes", std::vector<int64_t>{});
  object.List(
      "pairs", std::vector<std::pair<int, int>>{{1, 2}, {3, 4}},
      [](std::string& text, const std::pair<int, int>& p) {
        AppendIntegers(text += '[', p.first, p.second);
        text += ']';
      },
      "\n ");
  object.Close();
  EXPECT_EQ(out,
            "{\"s\":\"a\\\"b\",\"n\":-1,\"t\":true,\"names\":[\"x\",\"y\"],\"sizes\":[],"
            "\"pairs\":[\n [1,2],\n [3,4]]}");
  EXPECT_TRUE(nlohmann::json::accept(out));
}

}  // namespace
}  // namespace mimo::text_test
