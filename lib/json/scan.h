// The half of lib/json/parse.cc that takes a text apart, some ten times as fast as nlohmann::json::sax_parse and with
// the same events: headers and indexes of a checkpoint are tens of MB of short strings and small integers. Those are
// read here; a string with an escape or a byte beyond ASCII, and a number that is no short integer, are the handler's
// to read, one by one. A text that is no JSON is only told to be none.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace mimo {

enum class Scanned : uint8_t { kWhole, kStopped, kMalformed };

// Handler: the methods of nlohmann's SAX interface, and
//   bool odd_string(std::string_view token, std::string* value)   a string with its quotes; false: it is none
//   bool odd_number(std::string_view token, bool* goes_on)        hands it on as a number; false: nothing holds it
template <class Handler>
class JsonScanner {
 public:
  JsonScanner(std::string_view text, Handler& handler)
      : at_(text.data()), end_(text.data() + text.size()), handler_(handler) {}

  // kStopped: the handler returned false. Before kMalformed the handler has got everything up to what is wrong.
  Scanned Run() {
    constexpr std::string_view kMark = "\xEF\xBB\xBF";
    if (std::string_view(at_, Left()).starts_with(kMark)) at_ += kMark.size();
    Scanned state = Value();
    while (state == Scanned::kWhole && !open_.empty()) state = Next();
    if (state != Scanned::kWhole) return state;
    SkipSpace();
    return at_ == end_ ? Scanned::kWhole : Scanned::kMalformed;
  }

 private:
  static constexpr int kShortDigits = 18;  // any number of so many digits fits 64 bits

  static Scanned Of(bool goes_on) { return goes_on ? Scanned::kWhole : Scanned::kStopped; }
  size_t Left() const { return static_cast<size_t>(end_ - at_); }
  bool Is(char c) const { return at_ != end_ && *at_ == c; }
  static bool IsDigit(char c) { return c >= '0' && c <= '9'; }
  bool AtDigit() const { return at_ != end_ && IsDigit(*at_); }

  void SkipSpace() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) ++at_;
  }

  // What follows a value or the beginning of an array or object.
  Scanned Next() {
    const bool object = open_.back() == '{';
    SkipSpace();
    if (Is(object ? '}' : ']')) {
      ++at_;
      open_.pop_back();
      first_ = false;
      return Of(object ? handler_.end_object() : handler_.end_array());
    }
    if (!first_) {
      if (!Is(',')) return Scanned::kMalformed;
      ++at_;
      SkipSpace();
    }
    first_ = false;
    return object ? Member() : Value();
  }

  Scanned Member() {
    if (!Is('"') || !TakeString()) return Scanned::kMalformed;
    if (!handler_.key(string_)) return Scanned::kStopped;
    SkipSpace();
    if (!Is(':')) return Scanned::kMalformed;
    ++at_;
    return Value();
  }

  Scanned Value() {
    SkipSpace();
    if (at_ == end_) return Scanned::kMalformed;
    switch (*at_) {
      case '"':
        return TakeString() ? Of(handler_.string(string_)) : Scanned::kMalformed;
      case '{':
      case '[':
        open_.push_back(*at_);
        first_ = true;
        return Of(*at_++ == '{' ? handler_.start_object(kUnknownCount) : handler_.start_array(kUnknownCount));
      case 't':
        return TakeWord("true") ? Of(handler_.boolean(true)) : Scanned::kMalformed;
      case 'f':
        return TakeWord("false") ? Of(handler_.boolean(false)) : Scanned::kMalformed;
      case 'n':
        return TakeWord("null") ? Of(handler_.null()) : Scanned::kMalformed;
      default:
        return Number();
    }
  }
  static constexpr size_t kUnknownCount = static_cast<size_t>(-1);

  bool TakeWord(std::string_view word) {
    if (!std::string_view(at_, Left()).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }

  // Whether one of eight bytes ends a plain run: a quote, a backslash, a control character, or one beyond ASCII.
  static bool HasSpecial(uint64_t bytes) {
    constexpr uint64_t kOnes = 0x0101010101010101u, kHighs = 0x8080808080808080u;
    const uint64_t quote = bytes ^ (kOnes * '"'), slash = bytes ^ (kOnes * '\\');
    const uint64_t control = bytes - kOnes * 0x20;  // borrows only from a byte that is special itself
    return (((quote - kOnes) & ~quote) | ((slash - kOnes) & ~slash) | control | bytes) & kHighs;
  }

  // Into string_; false where there is none.
  bool TakeString() {
    const char* begin = at_ + 1;
    const char* p = begin;
    for (uint64_t bytes = 0; end_ - p >= 8; p += 8) {
      std::memcpy(&bytes, p, sizeof(bytes));
      if (HasSpecial(bytes)) break;
    }
    while (p != end_ && *p != '"' && *p != '\\' && static_cast<unsigned char>(*p) - 0x20u < 0x60u) ++p;
    if (p == end_) return false;
    if (*p != '"') return TakeOddString(p);
    string_.assign(begin, p);
    at_ = p + 1;
    return true;
  }

  // `p`: the first byte that is not plain.
  bool TakeOddString(const char* p) {
    while (p != end_ && *p != '"') {
      if (*p == '\\' && ++p == end_) return false;
      ++p;
    }
    if (p == end_) return false;
    if (!handler_.odd_string({at_, static_cast<size_t>(p + 1 - at_)}, &string_)) return false;
    at_ = p + 1;
    return true;
  }

  void SkipDigits() {
    while (AtDigit()) ++at_;
  }

  // -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?
  Scanned Number() {
    const char* begin = at_;
    if (Is('-')) ++at_;
    if (!AtDigit()) return Scanned::kMalformed;
    const char* digits = at_;
    if (Is('0'))
      ++at_;
    else
      SkipDigits();
    const bool plain = digits == begin && at_ - digits <= kShortDigits && !Is('.') && !Is('e') && !Is('E');
    if (plain) {
      uint64_t value = 0;
      for (const char* p = digits; p != at_; ++p) value = value * 10 + static_cast<uint64_t>(*p - '0');
      return Of(handler_.number_unsigned(value));
    }
    if (Is('.')) {
      ++at_;
      if (!AtDigit()) return Scanned::kMalformed;
      SkipDigits();
    }
    if (Is('e') || Is('E')) {
      ++at_;
      if (Is('+') || Is('-')) ++at_;
      if (!AtDigit()) return Scanned::kMalformed;
      SkipDigits();
    }
    bool goes_on = true;
    if (!handler_.odd_number({begin, static_cast<size_t>(at_ - begin)}, &goes_on)) return Scanned::kMalformed;
    return Of(goes_on);
  }

  const char* at_;
  const char* const end_;
  Handler& handler_;
  std::string open_;    // brackets that are open
  bool first_ = false;  // nothing was read yet of what was opened last
  std::string string_;  // the last string or key; the handler may move from it
};

}  // namespace mimo
