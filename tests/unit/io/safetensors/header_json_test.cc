// Every rule of the format, by bytes that break it and nothing else.
#include <gtest/gtest.h>

#include <string>

#include "lib/io/safetensors/safetensors.h"

namespace mimo::header_json_test {
namespace {

const std::string kPath = "dir/model.safetensors";

Result<SafetensorsHeader> Parse(const std::string& json, uint64_t data_bytes) {
  return ParseSafetensorsHeader(json, 8 + json.size() + data_bytes, kPath);
}

struct Broken {
  std::string json;
  uint64_t data_bytes = 0;
  std::string tensor;  // of the error
  std::string what;    // of the error, exactly
  std::string expected = {};
  std::string found = {};
};

void ExpectBroken(const Broken& c) {
  const auto result = Parse(c.json, c.data_bytes);
  ASSERT_FALSE(result.ok()) << "accepted: " << c.json;
  const Error& error = result.error();
  EXPECT_EQ(error.code, ErrorCode::kBadInput) << c.json;
  EXPECT_EQ(error.file, kPath) << c.json;
  EXPECT_EQ(error.tensor, c.tensor) << c.json;
  EXPECT_EQ(error.what, c.what) << c.json;
  EXPECT_FALSE(error.advice.empty()) << c.json;
  if (!c.expected.empty()) {
    EXPECT_EQ(error.expected, c.expected) << c.json;
  }
  if (!c.found.empty()) {
    EXPECT_EQ(error.found, c.found) << c.json;
  }
}

// {"NAME": {"dtype": "U8", "shape": [..], "data_offsets": [..]}}, without the outer braces.
std::string U8(const std::string& name, const std::string& shape, const std::string& offsets) {
  return '"' + name + R"(":{"dtype":"U8","shape":)" + shape + R"(,"data_offsets":)" + offsets + '}';
}

TEST(SafetensorsRules, GoodHeadersPass) {
  for (const auto& [json, data_bytes] : {
           std::pair<std::string, uint64_t>{"{}", 0},
           {"{}      ", 0},
           {R"({"__metadata__":{}})", 0},
           {"{ \"a\" :\n{\"shape\":[2 , 3],\t\"dtype\":\"U8\",\"data_offsets\":[0,6]} } ", 6},
           {"{" + U8("", "[]", "[0,1]") + "}", 1},
           {"{" + U8(std::string(4096, 'n'), "[]", "[0,1]") + "}", 1},
           {"{" + U8("b", "[4]", "[2,6]") + "," + U8("a", "[2]", "[0,2]") + "}", 6},
           {"{" + U8("a", "[0]", "[0,0]") + "," + U8("b", "[1]", "[0,1]") + "," + U8("c", "[5,0]", "[1,1]") + "}", 1},
           {R"({"a":{"dtype":"F4","shape":[3,2],"data_offsets":[0,3]}})", 3},
           {R"({"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}})", 3},
           {"{" + U8("a\\u0041", "[1]", "[0,1]") + "," + U8("a\xc3\xa9", "[1]", "[1,2]") + "}", 2},
       }) {
    const auto result = Parse(json, data_bytes);
    EXPECT_TRUE(result.ok()) << result.error().Message();
  }
}

TEST(SafetensorsRules, Syntax) {
  const std::string good = "{" + U8("a", "[1]", "[0,1]") + "}";
  const std::string start = "header does not start with '{'";
  const std::string end = "header does not end with '}' and spaces";
  const std::string syntax = "header is not valid JSON in UTF-8";
  for (const Broken& c : {
           Broken{"", 0, "", start},
           {" " + good, 1, "", start, "", "byte 32"},
           {"[]", 0, "", start},
           {"\xef\xbb\xbf" + good, 1, "", start},
           {"null", 0, "", start},
           {good + "\n", 1, "", end, "", "byte 10"},
           {good + "x", 1, "", end},
           {good + " \t ", 1, "", end},
           {good + std::string(1, '\0'), 1, "", end},
           {good + std::string("\0}", 2), 1, "", end, "", "a NUL byte"},
           {"{", 0, "", end},
           {good + "{}", 1, "", syntax},
           {good + "}", 1, "", syntax},
           {"{,}", 0, "", syntax},
           {"{\"a\"}", 0, "", syntax},
           {"{" + U8("a", "[1]", "[0,1]") + ",}", 1, "", syntax},
           {"{" + U8("a", "[1,]", "[0,1]") + "}", 1, "", syntax},
           {"{" + U8("a", "[01]", "[0,1]") + "}", 1, "", syntax},
           {"{" + U8("a", "[+1]", "[0,1]") + "}", 1, "", syntax},
           {"{" + U8("a", "[1e999]", "[0,1]") + "}", 1, "", "a JSON document beyond a limit"},
           {"{" + U8(std::string(4097, 'n'), "[1]", "[0,1]") + "}", 1, "", "a JSON document beyond a limit"},
           {"{/*c*/}", 0, "", syntax},
           {"{" + U8("a\xff", "[1]", "[0,1]") + "}", 1, "", syntax},
           {"{" + U8("a\xc0\x80", "[1]", "[0,1]") + "}", 1, "", syntax},
           {"{" + U8("a\xed\xa0\x80", "[1]", "[0,1]") + "}", 1, "", syntax},
           {"{" + U8("a\\ud800", "[1]", "[0,1]") + "}", 1, "", syntax},
           {"{" + U8("a\\x41", "[1]", "[0,1]") + "}", 1, "", syntax},
           {"{" + U8("a\nb", "[1]", "[0,1]") + "}", 1, "", syntax},
           {R"({"a":{"dtype":NaN}})", 0, "", syntax},
       }) {
    ExpectBroken(c);
  }
}

TEST(SafetensorsRules, MessagesStayPrintable) {
  const auto result = Parse("{\"" + std::string(5000, 'x') + "\xff\x01\"}", 0);
  ASSERT_FALSE(result.ok());
  EXPECT_LT(result.error().Message().size(), 400u);
  for (const char c : result.error().Message()) EXPECT_TRUE(c >= 0x20 && c < 0x7f);
}

TEST(SafetensorsRules, NoKeyTwice) {
  for (const Broken& c : {
           Broken{"{" + U8("a", "[1]", "[0,1]") + "," + U8("b", "[1]", "[1,2]") + "," + U8("a", "[1]", "[2,3]") + "}",
                  3, "a", "tensor appears twice"},
           {"{" + U8("a", "[1]", "[0,1]") + "," + U8("\\u0061", "[1]", "[1,2]") + "}", 2, "a", "tensor appears twice"},
           {"{" + U8("a", "[0]", "[0,0]") + "," + U8("a", "[0]", "[0,0]") + "}", 0, "a", "tensor appears twice"},
           {R"({"__metadata__":{"k":"1","l":"2","k":"1"}})", 0, "", "__metadata__ key \"k\" appears twice"},
           {R"({"__metadata__":{},"__metadata__":{}})", 0, "", "__metadata__ appears twice"},
           {R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1, "a",
            "field dtype appears twice"},
           {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"shape":[1]}})", 1, "a",
            "field shape appears twice"},
           {R"({"a":{"data_offsets":[0,1],"data_offsets":[0,1],"dtype":"U8","shape":[1]}})", 1, "a",
            "field data_offsets appears twice"},
       }) {
    ExpectBroken(c);
  }
}

TEST(SafetensorsRules, ExactlyTheThreeFields) {
  const std::string all = "dtype, shape and data_offsets";
  for (const Broken& c : {
           Broken{R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1, "a", "a field is missing", all,
                  "only shape and data_offsets"},
           {R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", 1, "a", "a field is missing", all,
            "only dtype and data_offsets"},
           {R"({"a":{"dtype":"U8","shape":[1]}})", 1, "a", "a field is missing", all, "only dtype and shape"},
           {R"({"a":{}})", 0, "a", "a field is missing", all, "none"},
           {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}})", 1, "a", "unknown field", all, "\"x\""},
           {R"({"a":{"DType":"U8"}})", 0, "a", "unknown field", all, "\"DType\""},
       }) {
    ExpectBroken(c);
  }
}

TEST(SafetensorsRules, Types) {
  const std::string entry = "entry is not an object";
  const std::string number = "shape has a bad number";
  const std::string whole = "whole numbers from 0 to 2^63 - 1";
  for (const Broken& c : {
           Broken{R"({"a":1})", 0, "a", entry, "an object", "1"},
           {R"({"a":-1})", 0, "a", entry, "an object", "-1"},
           {R"({"a":1.5})", 0, "a", entry, "an object", "1.5"},
           {R"({"a":"x"})", 0, "a", entry, "an object", "the string \"x\""},
           {R"({"a":null})", 0, "a", entry, "an object", "null"},
           {R"({"a":true})", 0, "a", entry, "an object", "true"},
           {R"({"a":[]})", 0, "a", entry, "an object", "an array"},
           {R"({"a":{"dtype":1}})", 0, "a", "dtype has the wrong type", "a string", "1"},
           {R"({"a":{"dtype":["U8"]}})", 0, "a", "dtype has the wrong type", "a string", "an array"},
           {R"({"a":{"dtype":{}}})", 0, "a", "dtype has the wrong type", "a string", "an object"},
           {R"({"a":{"shape":"1"}})", 0, "a", "shape has the wrong type", "an array", "the string \"1\""},
           {R"({"a":{"shape":4}})", 0, "a", "shape has the wrong type", "an array", "4"},
           {R"({"a":{"shape":{}}})", 0, "a", "shape has the wrong type", "an array", "an object"},
           {R"({"a":{"data_offsets":null}})", 0, "a", "data_offsets has the wrong type", "an array", "null"},
           {R"({"a":{"shape":[[1]]}})", 0, "a", number, whole, "an array"},
           {R"({"a":{"shape":[{}]}})", 0, "a", number, whole, "an object"},
           {R"({"a":{"shape":["1"]}})", 0, "a", number, whole, "the string \"1\""},
           {R"({"a":{"shape":[null]}})", 0, "a", number, whole, "null"},
           {R"({"a":{"shape":[-1]}})", 0, "a", number, whole, "-1"},
           {R"({"a":{"shape":[-0]}})", 0, "a", number, whole},
           {R"({"a":{"shape":[1.0]}})", 0, "a", number, whole, "1.0"},
           {R"({"a":{"shape":[1e2]}})", 0, "a", number, whole, "1e2"},
           {R"({"a":{"shape":[9223372036854775808]}})", 0, "a", number, whole, "9223372036854775808"},
           {R"({"a":{"shape":[18446744073709551616]}})", 0, "a", number, whole, "18446744073709551616"},
           {R"({"a":{"data_offsets":[0,-5]}})", 0, "a", "data_offsets has a bad number", whole, "-5"},
           {R"({"a":{"data_offsets":[0,0.5]}})", 0, "a", "data_offsets has a bad number", whole, "0.5"},
           {R"({"a":{"data_offsets":[0,9223372036854775808]}})", 0, "a", "data_offsets has a bad number", whole},
           {R"({"a":{"data_offsets":[]}})", 0, "a", "data_offsets has too few numbers", "[begin, end]", "0"},
           {R"({"a":{"data_offsets":[0]}})", 0, "a", "data_offsets has too few numbers", "[begin, end]", "1"},
           {R"({"a":{"data_offsets":[0,1,2]}})", 0, "a", "data_offsets has more than two numbers", "[begin, end]"},
           {R"({"a":{"data_offsets":[2,1]}})", 0, "a", "data_offsets are reversed", "begin <= end", "[2, 1]"},
       }) {
    ExpectBroken(c);
  }
}

TEST(SafetensorsRules, Metadata) {
  const std::string value = "__metadata__ value of \"k\" is not a string";
  for (const Broken& c : {
           Broken{R"({"__metadata__":"x"})", 0, "", "__metadata__ is not an object", "an object", "the string \"x\""},
           {R"({"__metadata__":[]})", 0, "", "__metadata__ is not an object", "an object", "an array"},
           {R"({"__metadata__":null})", 0, "", "__metadata__ is not an object", "an object", "null"},
           {R"({"__metadata__":{"k":1}})", 0, "", value, "a string", "1"},
           {R"({"__metadata__":{"k":null}})", 0, "", value, "a string", "null"},
           {R"({"__metadata__":{"k":{}}})", 0, "", value, "a string", "an object"},
           {R"({"__metadata__":{"k":["v"]}})", 0, "", value, "a string", "an array"},
       }) {
    ExpectBroken(c);
  }
}

TEST(SafetensorsRules, DepthIsBounded) {
  std::string deep = R"({"a":)";
  for (int i = 0; i < 1'000'000; ++i) deep += '[';
  ExpectBroken({deep + '}', 0, "a", "entry is not an object", "", ""});
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += R"({"a":)";
  ExpectBroken({objects + '}', 0, "a", "unknown field", "", ""});
}

TEST(SafetensorsRules, DType) {
  const auto result = Parse(R"({"t":{"dtype":"F8_E4M3FN","shape":[1],"data_offsets":[0,1]}})", 1);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::kBadInput);
  EXPECT_EQ(result.error().tensor, "t");
  EXPECT_EQ(result.error().what, "unknown dtype");
  EXPECT_EQ(result.error().found, "\"F8_E4M3FN\"");
  for (const char* known : {" F8_E4M3 ", " BF16 ", " U64"}) {
    EXPECT_NE(result.error().expected.find(known), std::string::npos) << known;
  }
}

TEST(SafetensorsRules, SizeOfTheRange) {
  const std::string mismatch = "data_offsets do not match dtype and shape";
  const std::string overflow = "shape overflows or is not a whole number of bytes";
  for (const Broken& c : {
           Broken{"{" + U8("a", "[2,3]", "[0,5]") + "}", 5, "a", mismatch, "6 bytes for U8 [2, 3]", "5 bytes"},
           {"{" + U8("a", "[2,0]", "[0,5]") + "}", 5, "a", mismatch, "0 bytes for U8 [2, 0]", "5 bytes"},
           {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,2]}})", 2, "a", mismatch, "8 bytes for F32 [2]",
            "2 bytes"},
           {R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,0]}})", 0, "a", mismatch, "4 bytes for F32 []",
            "0 bytes"},
           {R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}})", 2, "a", overflow, "", "F4 [3]"},
           {R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", 1, "a", overflow, "", "F4 [3]"},
           {R"({"a":{"dtype":"F6_E3M2","shape":[3],"data_offsets":[0,2]}})", 2, "a", overflow, "", "F6_E3M2 [3]"},
           // 2^32 * 2^32 = 2^64 wraps to 0; 2^61 * 8 bits wraps to 0.
           {"{" + U8("a", "[4294967296,4294967296]", "[0,0]") + "}", 0, "a", overflow},
           {"{" + U8("a", "[2305843009213693952]", "[0,0]") + "}", 0, "a", overflow},
           {"{" + U8("a", "[0,4294967296,4294967296]", "[0,0]") + "}", 0, "a", overflow},
           {"{" + U8("a", "[4294967296,4294967296,0]", "[0,0]") + "}", 0, "a", overflow},
       }) {
    ExpectBroken(c);
  }
}

TEST(SafetensorsRules, CoverOfTheData) {
  const std::string two = "{" + U8("a", "[4]", "[0,4]") + "," + U8("b", "[4]", "[4,8]") + "}";
  const std::string whole = "a file of " + std::to_string(8 + two.size() + 8) + " bytes";
  const std::string overlap = "data overlaps another tensor's";
  const std::string hole = "hole in the data before this tensor";
  for (const Broken& c : {
           Broken{two, 7, "b", "data is truncated", whole, std::to_string(8 + two.size() + 7) + " bytes"},
           {two, 3, "a", "data is truncated", whole, std::to_string(8 + two.size() + 3) + " bytes"},
           {two, 0, "a", "data is truncated", whole},
           {two, 9, "", "bytes after the last tensor", whole, std::to_string(8 + two.size() + 9) + " bytes"},
           {"{}", 1, "", "bytes after the last tensor", "a file of 10 bytes", "11 bytes"},
           {"{" + U8("a", "[1]", "[1,2]") + "}", 2, "a", hole, "begin at 0", "data_offsets [1, 2]"},
           {"{" + U8("b", "[4]", "[5,9]") + "," + U8("a", "[4]", "[0,4]") + "}", 9, "b", hole, "begin at 4",
            "data_offsets [5, 9]"},
           {"{" + U8("a", "[4]", "[0,4]") + "," + U8("b", "[4]", "[3,7]") + "}", 7, "b", overlap, "begin at 4",
            "data_offsets [3, 7]"},
           {"{" + U8("a", "[4]", "[0,4]") + "," + U8("b", "[4]", "[0,4]") + "}", 4, "b", overlap},
           {"{" + U8("a", "[4]", "[0,4]") + "," + U8("b", "[0]", "[2,2]") + "}", 4, "b", overlap},
           {"{" + U8("a", "[4]", "[0,4]") + "," + U8("b", "[0]", "[6,6]") + "}", 6, "b", hole},
           {"{" + U8("a", "[1152921504606846976]", "[0,1152921504606846976]") + "}", 4, "a", "data is truncated"},
       }) {
    ExpectBroken(c);
  }
}

TEST(SafetensorsRules, FileShorterThanTheHeader) {
  const auto result = ParseSafetensorsHeader("{}", 9, kPath);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().what, "header is longer than the file");
  EXPECT_EQ(result.error().file, kPath);
}

}  // namespace
}  // namespace mimo::header_json_test
