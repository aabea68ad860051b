// JSON from anywhere is bounded before anything is built of it, and says what it was refused for and where.
#include "lib/json/parse.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <vector>

namespace mimo::parse_test {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

std::string Repeated(const std::string& text, size_t times) {
  std::string out;
  for (size_t i = 0; i < times; ++i) out += text;
  return out;
}
std::string Nested(size_t depth) {
  return Repeated("[", depth) + Repeated("]", depth);
}

// What was expected and found; "" for what is accepted.
std::string Refusal(const std::string& text, const JsonLimits& limits = {}) {
  const Result<json> read = ParseJson<json>(text, "x.json", limits);
  if (read.ok()) return "";
  EXPECT_EQ(read.error().code, ErrorCode::kBadInput);
  EXPECT_EQ(read.error().file, "x.json");
  return read.error().expected + " / " + read.error().found;
}

TEST(ParseJson, GivesTheValueThatTheLibraryGives) {
  const std::string text = R"({"b":[1,-2,3.5,"x\u00e9",true,null,{}],"a":{"d":[],"c":18446744073709551615},"z":-0})";
  const auto read = ParseJson<json>(text, "");
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read.value().dump(), json::parse(text).dump());
  const auto ordered = ParseJson<ordered_json>(text, "");
  ASSERT_TRUE(ordered.ok());
  EXPECT_EQ(ordered.value().dump(), ordered_json::parse(text).dump());
  EXPECT_EQ(ParseJson<json>("3", "").value(), 3);
}

TEST(ParseJson, NamesLineAndColumnOfASyntaxError) {
  EXPECT_EQ(Refusal("{\n  \"a\": 1,\n  }"), "a JSON document in UTF-8 / a syntax error at line 3, column 3");
  EXPECT_NE(Refusal(""), "");
  EXPECT_NE(Refusal("{} {}"), "");
  EXPECT_NE(Refusal("\"\xE9\""), "");               // no UTF-8
  EXPECT_NE(Refusal("\"\xED\xA0\x80\""), "");       // a surrogate
  EXPECT_NE(Refusal(R"("\ud800")"), "");            // the same in an escape
  EXPECT_NE(Refusal(std::string("1\0 2", 4)), "");  // the library's parser would take 1
  EXPECT_NE(Refusal("[NaN]"), "");
}

TEST(ParseJson, BoundsDepth) {
  EXPECT_EQ(Refusal(Nested(64)), "");
  EXPECT_EQ(Refusal(Nested(65)).find("at most 64 levels"), 0u);
  EXPECT_EQ(Refusal(Repeated("[", 2'000'000)).find("at most 64 levels"), 0u);
  EXPECT_NE(Refusal(Repeated("{\"a\":", 2'000'000)).find("more at a.a.a."), std::string::npos);
}

TEST(ParseJson, BoundsLengthsAndCounts) {
  EXPECT_EQ(Refusal("[1,2]", {.bytes = 5}), "");
  EXPECT_EQ(Refusal("[1,2]", {.bytes = 4}), "at most 4 bytes / 5");
  EXPECT_EQ(Refusal("[\"abc\"]", {.string_bytes = 3}), "");
  EXPECT_EQ(Refusal("{\"k\":[1,\"abcd\"]}", {.string_bytes = 3}), "strings of at most 3 bytes / one of 4 at k[1]");
  EXPECT_EQ(Refusal("{\"abc\":1}", {.key_bytes = 3}), "");
  EXPECT_EQ(Refusal("{\"x\":{\"abcd\":1}}", {.key_bytes = 3}), "keys of at most 3 bytes / one of 4 at x");
  EXPECT_EQ(Refusal("[1,[2]]", {.values = 4}), "");
  EXPECT_EQ(Refusal("[1,[2,3]]", {.values = 4}), "at most 4 values / more at [1][1]");
}

TEST(ParseJson, RefusesNumbersThatNothingHolds) {
  EXPECT_EQ(Refusal("[18446744073709551615,-9223372036854775808,1e308,1e-999]"), "");
  EXPECT_EQ(Refusal("{\"n\":18446744073709551616}"), "integers of at most 64 bits / an integer of 20 characters at n");
  EXPECT_NE(Refusal("[-9223372036854775809]"), "");
  EXPECT_EQ(Refusal("{\"n\":\n1e999}").find("numbers that a double holds"), 0u);
}

TEST(ParseJson, RefusesAKeyThatAppearsTwice) {
  EXPECT_EQ(Refusal(R"({"o":[{"a":1,"b":2},{"a":1,"b":2,"a":3}]})"), "each key once / \"a\" twice at o[1]");
  EXPECT_EQ(Refusal(R"({"a":{"a":{}},"b":{"a":1}})"), "");
  std::string many = "{";
  for (int i = 0; i < 1000; ++i) many += "\"k" + std::to_string(i * 7 % 1000) + "\":0,";
  EXPECT_EQ(Refusal(many + "\"z\":0}"), "");
  EXPECT_EQ(Refusal(many + "\"k77\":0}"), "each key once / \"k77\" twice");
  EXPECT_FALSE(ParseJson<ordered_json>(R"({"a":1,"a":2})", "").ok());
}

TEST(ParseJson, CutsWhatItNames) {
  const std::string refusal = Refusal("{\"" + std::string(5000, 'n') + "\":{\"a\":1,\"a\":1}}");
  EXPECT_LT(refusal.size(), 300u);
  EXPECT_EQ(refusal.substr(refusal.size() - 3), "...");
}

TEST(ParseJsonParts, ShowsMembersOfMembersAndDropsThem) {
  std::vector<std::string> seen;
  const JsonPart part = [&](const std::string& member, const std::string& key, json& value) {
    seen.push_back(member + "/" + key + "/" + value.dump());
    return member != "drop";
  };
  const auto read =
      ParseJsonParts(R"({"drop":[1,{"a":[2]}],"keep":{"x":[3],"y":{"z":4}},"s":5,"drop2":{}})", "", {}, part);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(seen, (std::vector<std::string>{"drop//1", "drop//{\"a\":[2]}", "keep/x/[3]", "keep/y/{\"z\":4}"}));
  EXPECT_EQ(read.value().dump(), R"({"drop":[],"drop2":{},"keep":{"x":[3],"y":{"z":4}},"s":5})");
  const auto map = ParseJsonParts(R"({"drop":{"a":1,"b":2}})", "", {}, part);
  EXPECT_EQ(map.value().dump(), R"({"drop":{}})");
  EXPECT_FALSE(ParseJsonParts(R"({"drop":{"a":1,"b":2,"a":1}})", "", {}, part).ok());
}

TEST(LineAndColumn, CountFromOne) {
  EXPECT_EQ(LineAndColumn("ab\ncd", 1), "line 1, column 1");
  EXPECT_EQ(LineAndColumn("ab\ncd", 4), "line 2, column 1");
  EXPECT_EQ(LineAndColumn("", 0), "line 1, column 1");
}

}  // namespace
}  // namespace mimo::parse_test
