// The scanner gives what nlohmann's parser gives, event by event, for texts that are JSON and for texts that nearly
// are.
#include "lib/json/scan.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

namespace mimo {
namespace {

using nlohmann::json;

// Every event as a line; stops after `most`.
struct Recorder {
  size_t most = SIZE_MAX;
  std::vector<std::string> lines = {};
  bool failed = false;

  bool Add(std::string line) {
    lines.push_back(std::move(line));
    return lines.size() < most;
  }
  bool null() { return Add("null"); }
  bool boolean(bool value) { return Add(value ? "true" : "false"); }
  bool number_integer(int64_t value) { return Add("integer " + std::to_string(value)); }
  bool number_unsigned(uint64_t value) { return Add("unsigned " + std::to_string(value)); }
  bool number_float(double value, const std::string& text) { return Add("float " + json(value).dump() + " " + text); }
  bool string(std::string& value) { return Add("string " + std::move(value)); }
  bool binary(json::binary_t& /*value*/) { return Add("binary"); }
  static bool odd_string(std::string_view token, std::string* value) {
    const json read = json::parse(token, nullptr, false);
    if (!read.is_string()) return false;
    *value = read.get<std::string>();
    return true;
  }
  bool odd_number(std::string_view token, bool* goes_on) {
    Recorder alone;
    if (!json::sax_parse(token, &alone)) return false;
    *goes_on = Add(alone.lines.at(0));
    return true;
  }
  bool start_object(size_t count) { return Add("{" + std::to_string(count)); }
  bool key(std::string& value) { return Add("key " + std::move(value)); }
  bool end_object() { return Add("}"); }
  bool start_array(size_t count) { return Add("[" + std::to_string(count)); }
  bool end_array() { return Add("]"); }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) {
    failed = true;
    return false;
  }
};

void ExpectSame(const std::string& text, size_t most = SIZE_MAX) {
  Recorder want{.most = most}, got{.most = most};
  const bool whole = json::sax_parse(text.data(), text.data() + text.size(), &want);
  const Scanned scanned = JsonScanner(std::string_view(text), got).Run();
  EXPECT_EQ(scanned == Scanned::kWhole, whole) << text;
  EXPECT_EQ(scanned == Scanned::kMalformed, want.failed) << text;
  EXPECT_EQ(got.lines, want.lines) << text;
}

const std::vector<std::string>& Documents() {
  static const std::vector<std::string> documents = {
      R"({"metadata": {"total_size": 3.15e11, "tp_size": "4"}, "weight_map": {"model.layers.0.w": "a-00001.safetensors"}})",
      R"({"__metadata__":{"format":"pt"},"model.norm.weight":{"dtype":"BF16","shape":[4096],"data_offsets":[0,8192]}})",
      R"([0, -0, 1, -1, 10, 999999999999999999, 1000000000000000000, 9223372036854775807, -9223372036854775808])",
      R"([18446744073709551615, 18446744073709551616, -9223372036854775809, 1e5, 1E+5, 1.5e-3, 0.25, 0e0, 1e308])",
      R"(["", "plain text of more than sixteen bytes", "\u00e9\n\"\\\/", "\ud83d\ude00", "gr\u00fc\u00df", "grüß 😀 ~"])",
      "\xEF\xBB\xBF [ true , false , null , [ ] , { } , [ [ [ ] ] ] , { \"a\" : { \"b\" : [ { } ] } } ] \t\r\n",
      R"("alone")",
      "3",
      "-7.5",
      "true",
      "null",
      "[]",
      "{}",
      R"({"a":1,"a":2})"};
  return documents;
}

TEST(JsonScanner, GivesTheEventsThatTheLibraryGives) {
  for (const std::string& text : Documents()) {
    ExpectSame(text);
    for (size_t most = 1; most < 12; ++most) ExpectSame(text, most);
  }
}

TEST(JsonScanner, RefusesWhatTheLibraryRefuses) {
  for (const char* text : {"",
                           " ",
                           "[",
                           "]",
                           "{",
                           "}",
                           "[1",
                           "[1,",
                           "[1,]",
                           "[,1]",
                           "[1 2]",
                           "{,}",
                           R"({"a"})",
                           R"({"a":})",
                           R"({"a":1,})",
                           R"({"a" 1})",
                           R"({1:2})",
                           R"({"a":1 "b":2})",
                           "[}",
                           "{]",
                           "01",
                           "-",
                           "+1",
                           ".5",
                           "1.",
                           "1.e5",
                           "1e",
                           "1e+",
                           "0x1",
                           "1e400",
                           "-1e400",
                           "truE",
                           "nul",
                           "nulll",
                           "tru",
                           "NaN",
                           "Infinity",
                           "'a'",
                           "\"",
                           "\"a",
                           "\"\\\"",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\\ud800\"",
                           "\"\\udc00\"",
                           "\"a\tb\"",
                           "\"a\nb\"",
                           "\"\x01\"",
                           "\"\x7f\"",
                           "\"\xC3\"",
                           "\"\xE9\"",
                           "\"\xED\xA0\x80\"",
                           "\"\xF4\x90\x80\x80\"",
                           "\"\xC0\xAF\"",
                           "[] []",
                           "[]x",
                           "// c\n1",
                           "\xEF\xBB",
                           "\xEF\xBB\xBF",
                           "1.5.2",
                           "1-2",
                           "[1e5e]",
                           "[0123]",
                           "[-01]",
                           "[--1]",
                           "\"0123456\x1f\"",
                           "\"01234567\x80\"",
                           "\"0123456\\"})
    ExpectSame(text);
}

TEST(JsonScanner, AgreesAboutDocumentsWithAFewBytesChanged) {
  std::mt19937 random(14);
  const std::string bytes = "\"\\{}[]:,0123456789.-+eEtrufalsn \n\t\x01\x1f\x7f\x80\xC3\xA9\xFF";
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  for (int i = 0; i < 60000; ++i) {
    std::string text = Documents()[below(Documents().size())];
    for (size_t edits = 1 + below(3); edits > 0; --edits) {
      const size_t at = below(text.size() + 1);
      const size_t kind = below(4);
      if (kind == 0) text.insert(at, 1, bytes[below(bytes.size())]);
      if (kind == 1 && at < text.size()) text.erase(at, 1 + below(3));
      if (kind == 2 && at < text.size()) text[at] = bytes[below(bytes.size())];
      if (kind == 3) text.resize(at);
    }
    if (text.find('\0') != std::string::npos) continue;
    ExpectSame(text);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace mimo
