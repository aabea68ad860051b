// Writing JSON text quickly: strings escaped, numbers plain, nothing else.
#pragma once

#include <charconv>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace mimo {

// Appends `text` as a JSON string, quotes included. Bytes from 0x80 on are copied: the caller has valid UTF-8.
inline void AppendJsonString(std::string& out, std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  out += '"';
  size_t clean = 0;  // start of the part that needs no escape
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c >= 0x20 && c != '"' && c != '\\') continue;
    out.append(text, clean, i - clean);
    clean = i + 1;
    out += '\\';
    if (c == '"' || c == '\\') {
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += 'n';
    } else {
      out += "u00";
      out += kHex[c >> 4];
      out += kHex[c & 15];
    }
  }
  out.append(text, clean, text.size() - clean);
  out += '"';
}

template <class Integer>
void AppendInteger(std::string& out, Integer value) {
  char digits[24];
  auto [end, error] = std::to_chars(digits, digits + sizeof digits, value);
  (void)error;  // 24 characters hold every 64-bit integer
  out.append(digits, end);
}

// Appends numbers with commas between them.
template <class First, class... Rest>
void AppendIntegers(std::string& out, First first, Rest... rest) {
  AppendInteger(out, first);
  (AppendInteger(out += ',', rest), ...);
}

// The elements of one array, on one line: [1,2,3]; or each on a line of its own, when `line` is what such a line begins
// with, its line feed included. It ends with its scope, or before that by Close.
class JsonList {
 public:
  explicit JsonList(std::string& out, std::string_view line = "") : out_(out), line_(line) { out_ += '['; }
  JsonList(const JsonList&) = delete;
  ~JsonList() { Close(); }
  // The caller appends the next element.
  std::string& Next() {
    if (!first_) out_ += ',';
    first_ = false;
    return out_ += line_;
  }
  // `last`: what follows the last element where there is one.
  void Close(std::string_view last = "") {
    if (std::exchange(closed_, true)) return;
    if (!first_) out_ += last;
    out_ += ']';
  }

 private:
  std::string& out_;
  std::string_view line_;
  bool first_ = true, closed_ = false;
};

// The members of one object on one line: {"a":1,"b":"x"}. It ends with its scope, or before that by Close.
class JsonObject {
 public:
  explicit JsonObject(std::string& out) : out_(out) { out_ += '{'; }
  JsonObject(const JsonObject&) = delete;
  ~JsonObject() { Close(); }
  std::string& Key(std::string_view key) {  // keys are our own words: no escapes
    if (!first_) out_ += ',';
    first_ = false;
    out_ += '"';
    out_ += key;
    out_ += "\":";
    return out_;
  }
  void String(std::string_view key, std::string_view value) { AppendJsonString(Key(key), value); }
  template <class Integer>
  void Number(std::string_view key, Integer value) {
    AppendInteger(Key(key), value);
  }
  void Bool(std::string_view key, bool value) { Key(key) += value ? "true" : "false"; }
  // A list of values, each appended by `append(out, value)`; `line` as in JsonList.
  template <class Values, class Append>
  void List(std::string_view key, const Values& values, Append append, std::string_view line = "") {
    JsonList list(Key(key), line);
    for (const auto& value : values) append(list.Next(), value);
  }
  template <class Strings>
  void StringList(std::string_view key, const Strings& values) {
    List(key, values, AppendJsonString);
  }
  template <class Integers>
  void NumberList(std::string_view key, const Integers& values) {
    List(key, values, AppendInteger<typename Integers::value_type>);
  }
  void Close() {
    if (!std::exchange(closed_, true)) out_ += '}';
  }

 private:
  std::string& out_;
  bool first_ = true, closed_ = false;
};

}  // namespace mimo
