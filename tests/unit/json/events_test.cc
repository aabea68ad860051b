// simdjson, and nlohmann from where it refuses, give what nlohmann's parser gives alone, event by event, for texts that
// are JSON and for texts that nearly are.
#include "lib/json/events.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

namespace mimo::events_test {
namespace {

using nlohmann::json;

// Every event as a line; stops after `most`.
struct Recorder : JsonEvents {
  explicit Recorder(size_t stop_after) : most(stop_after) {}
  size_t most;
  std::vector<std::string> lines;

  bool Add(std::string line) {
    lines.push_back(std::move(line));
    return lines.size() < most;
  }
  bool Null() override { return Add("null"); }
  bool Bool(bool value) override { return Add(value ? "true" : "false"); }
  bool Integer(int64_t value) override { return Add("integer " + std::to_string(value)); }
  bool Unsigned(uint64_t value) override { return Add("unsigned " + std::to_string(value)); }
  bool Real(double value, const std::string& text) override { return Add("real " + json(value).dump() + " " + text); }
  bool String(std::string& value) override { return Add("string " + std::move(value)); }
  bool BeginObject() override { return Add("{"); }
  bool Key(std::string& value) override { return Add("key " + std::move(value)); }
  bool EndObject() override { return Add("}"); }
  bool BeginArray() override { return Add("["); }
  bool EndArray() override { return Add("]"); }
};

// What nlohmann alone makes of the same text.
struct Library {
  explicit Library(Recorder& to) : out(to) {}
  Recorder& out;
  bool failed = false;
  size_t byte = 0;

  bool null() { return out.Null(); }
  bool boolean(bool value) { return out.Bool(value); }
  bool number_integer(int64_t value) { return out.Integer(value); }
  bool number_unsigned(uint64_t value) { return out.Unsigned(value); }
  bool number_float(double value, const std::string& text) { return out.Real(value, text); }
  bool string(std::string& value) { return out.String(value); }
  bool binary(json::binary_t& /*value*/) { return out.Add("binary"); }
  bool start_object(size_t /*count*/) { return out.BeginObject(); }
  bool key(std::string& value) { return out.Key(value); }
  bool end_object() { return out.EndObject(); }
  bool start_array(size_t /*count*/) { return out.BeginArray(); }
  bool end_array() { return out.EndArray(); }
  bool parse_error(size_t position, const std::string& /*token*/, const nlohmann::detail::exception& /*problem*/) {
    failed = true;
    byte = position;
    return false;
  }
};

void ExpectSame(const std::string& text, size_t most = SIZE_MAX) {
  Recorder want(most), got(most);
  Library library(want);
  const bool whole = json::sax_parse(text.data(), text.data() + text.size(), &library);
  const JsonEnd end = ReadJsonEvents(text, got);
  EXPECT_EQ(end.kind == JsonEnd::Kind::kWhole, whole) << text;
  EXPECT_EQ(end.kind == JsonEnd::Kind::kStopped, !whole && !library.failed) << text;
  EXPECT_EQ(end.byte, library.byte) << text;
  EXPECT_EQ(got.lines, want.lines) << text;
}

const std::vector<std::string>& Documents() {
  static const std::vector<std::string> documents = {
      R"({"metadata": {"total_size": 3.15e11, "tp_size": "4"}, "weight_map": {"model.layers.0.w": "a-00001.safetensors"}})",
      R"({"__metadata__":{"format":"pt"},"model.norm.weight":{"dtype":"BF16","shape":[4096],"data_offsets":[0,8192]}})",
      R"([0, -0, 1, -1, 10, 999999999999999999, 1000000000000000000, 9223372036854775807, -9223372036854775808])",
      R"([18446744073709551615, 18446744073709551616, -9223372036854775809, 1e5, 1E+5, 1.5e-3, 0.25, 0e0, 1e308])",
      R"({"": "", "\n\"\\\/": ["plain text of more than sixteen bytes", "\b\f\r\t\"", "grüß 😀 ~", 3.5e-7, null]})",
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

TEST(ReadJsonEvents, GivesTheEventsThatTheLibraryGives) {
  for (const std::string& text : Documents()) {
    ExpectSame(text);
    for (size_t most = 1; most < 12; ++most) ExpectSame(text, most);
  }
}

TEST(ReadJsonEvents, RefusesWhatTheLibraryRefuses) {
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

TEST(ReadJsonEvents, AgreesAboutDocumentsWithAFewBytesChanged) {
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

// Digits, points and exponents of every length, so that both ways to a double are gone.
TEST(ReadJsonEvents, AgreesAboutNumbers) {
  std::mt19937 random(15);
  const auto digits = [&](size_t most) {
    std::string out;
    for (size_t n = 1 + random() % most; n > 0; --n) out += static_cast<char>('0' + random() % 10);
    return out;
  };
  for (int i = 0; i < 20000; ++i) {
    std::string number = random() % 4 == 0 ? "-" : "";
    number += random() % 4 == 0 ? "0" : std::string(1, static_cast<char>('1' + random() % 9)) + digits(22);
    if (random() % 2 == 0) number += "." + (random() % 4 == 0 ? std::string(1 + random() % 24, '0') : digits(24));
    if (random() % 3 == 0) number += (random() % 2 == 0 ? "e-" : "E") + digits(3);
    ExpectSame("[" + number + " ]");
    ExpectSame("{\"a\":" + number + "}");
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace mimo::events_test
