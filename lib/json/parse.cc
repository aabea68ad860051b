#include "lib/json/parse.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "lib/json/bytes.h"
#include "lib/json/events.h"

namespace mimo {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr size_t kMostOfAPlace = 200;  // bytes of a place or key in a message

std::string Cut(std::string_view text) {
  return CutText(text, kMostOfAPlace);
}

// Keys of the objects that are open, one after the other in one piece of memory: a million keys are no million
// allocations.
class KeyStack {
 public:
  size_t size() const { return ends_.size(); }
  std::string_view operator[](size_t i) const {
    const size_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(bytes_).substr(begin, ends_[i] - begin);
  }
  void Push(std::string_view key) {
    bytes_ += key;
    ends_.push_back(bytes_.size());
  }
  void ShrinkTo(size_t keys) {
    ends_.resize(keys);
    bytes_.resize(keys == 0 ? 0 : ends_.back());
  }
  // A key that appears twice from number `first` on. Sorting: no hash that input could be made to defeat.
  std::optional<std::string> TwiceFrom(size_t first) const {
    bool ascending = true;
    for (size_t i = first + 1; i < size() && ascending; ++i) ascending = (*this)[i - 1] < (*this)[i];
    if (ascending) return std::nullopt;
    std::vector<std::string_view> keys;
    for (size_t i = first; i < size(); ++i) keys.push_back((*this)[i]);
    std::sort(keys.begin(), keys.end());
    const auto it = std::adjacent_find(keys.begin(), keys.end());
    return it == keys.end() ? std::nullopt : std::optional<std::string>(*it);
  }

 private:
  std::string bytes_;
  std::vector<size_t> ends_;
};

// Receives what the text consists of, refuses what is beyond a limit, and hands the rest to `next`.
template <class Next>
class Guard final : public JsonEvents {
 public:
  Guard(std::string_view text, const std::string& path, const JsonLimits& limits, Next& next)
      : text_(text), path_(path), limits_(limits), next_(next) {}

  // False when `next` stopped the reading.
  Result<bool> Run() {
    if (text_.size() > limits_.bytes)
      return Beyond("at most " + std::to_string(limits_.bytes) + " bytes", std::to_string(text_.size()));
    // The parser takes a NUL byte for the end of its input.
    if (const size_t nul = text_.find('\0'); nul != std::string_view::npos) {
      Fail(NotJson("a NUL byte at " + LineAndColumn(text_, nul + 1)));
      return *std::move(error_);
    }
    const JsonEnd end = ReadJsonEvents(text_, *this);
    if (end.kind == JsonEnd::Kind::kNoJson || end.kind == JsonEnd::Kind::kTooGreat) {
      const std::string at = " at " + LineAndColumn(text_, end.byte);
      Fail(end.kind == JsonEnd::Kind::kTooGreat ? Beyond("numbers that a double holds", "a greater one" + at)
                                                : NotJson("a syntax error" + at));
    }
    if (error_) return *std::move(error_);
    return end.kind == JsonEnd::Kind::kWhole;
  }

  bool Null() override { return Value() && next_.Null(); }
  bool Bool(bool value) override { return Value() && next_.Bool(value); }
  bool Integer(int64_t value) override { return Value() && next_.Integer(value); }
  bool Unsigned(uint64_t value) override { return Value() && next_.Unsigned(value); }
  bool Real(double value, const std::string& text) override {
    if (!Value()) return false;
    if (limits_.strict && text.find_first_of(".eE") == std::string::npos)
      return Fail(
          Beyond("integers of at most 64 bits", "an integer of " + std::to_string(text.size()) + " characters"));
    return next_.Real(value, text);
  }
  bool String(std::string& value) override {
    if (!Value()) return false;
    if (value.size() <= limits_.string_bytes) return next_.String(value);
    return Fail(Beyond("strings of at most " + std::to_string(limits_.string_bytes) + " bytes",
                       "one of " + std::to_string(value.size())));
  }

  bool BeginObject() override { return Begin(true) && next_.BeginObject(); }
  bool Key(std::string& value) override {
    if (value.size() > limits_.key_bytes)
      return Fail(Beyond("keys of at most " + std::to_string(limits_.key_bytes) + " bytes",
                         "one of " + std::to_string(value.size())));
    if (!limits_.strict) keys_.ShrinkTo(levels_.back().first_key);  // the last one alone says where something is
    keys_.Push(value);
    return next_.Key(value);
  }
  bool EndObject() override {
    const size_t first = levels_.back().first_key;
    const std::optional<std::string> key = limits_.strict ? keys_.TwiceFrom(first) : std::nullopt;
    keys_.ShrinkTo(first);
    levels_.pop_back();
    if (key)
      return Fail(BadInput("a key appears twice in one object")
                      .Expected("each key once")
                      .Found("\"" + Cut(*key) + "\" twice" + At()));
    return next_.EndObject();
  }
  bool BeginArray() override { return Begin(false) && next_.BeginArray(); }
  bool EndArray() override {
    levels_.pop_back();
    return next_.EndArray();
  }

 private:
  struct Level {
    bool object;
    size_t first_key;     // of its keys in keys_
    size_t elements = 0;  // of an array, so far
  };

  static Error NotJson(std::string found) {
    return BadInput(kNotJson).Expected("a JSON document in UTF-8").Found(std::move(found));
  }
  Error Beyond(std::string expected, std::string found) const {
    return BadInput("a JSON document beyond a limit").File(path_).Expected(std::move(expected)).Found(found + At());
  }

  bool Fail(Error error) {
    error_ = std::move(error).File(path_);
    return false;
  }

  bool Value() {
    if (!levels_.empty()) ++levels_.back().elements;
    if (++values_ <= limits_.values) return true;
    return Fail(Beyond("at most " + std::to_string(limits_.values) + " values", "more"));
  }

  bool Begin(bool object) {
    if (!Value()) return false;
    if (levels_.size() >= limits_.depth)
      return Fail(Beyond("at most " + std::to_string(limits_.depth) + " levels of arrays and objects", "more"));
    levels_.push_back({object, keys_.size()});
    return true;
  }

  // " at a.b[3]", of the value that is being read; "" for the document.
  std::string At() const {
    std::string place;
    for (size_t i = 0; i < levels_.size() && place.size() <= kMostOfAPlace; ++i) {
      const size_t end = i + 1 < levels_.size() ? levels_[i + 1].first_key : keys_.size();
      if (!levels_[i].object) {
        place += "[" + std::to_string(levels_[i].elements > 0 ? levels_[i].elements - 1 : 0) + "]";
      } else if (end > levels_[i].first_key) {
        place += place.empty() ? "" : ".";
        place += keys_[end - 1];
      }
    }
    return place.empty() ? "" : " at " + Cut(place);
  }

  const std::string_view text_;
  const std::string& path_;
  const JsonLimits& limits_;
  Next& next_;
  std::optional<Error> error_;
  std::vector<Level> levels_;  // that are open
  KeyStack keys_;              // of the open objects; where they are not looked through, the last of each
  size_t values_ = 0;
};

// Builds the document; each member of a member goes by `part`, where there is one.
template <class Json>
class Builder {
 public:
  explicit Builder(const JsonPart* part) : part_(part) {}
  Json Take() { return std::move(root_); }

  bool Null() { return Scalar(nullptr); }
  bool Bool(bool value) { return Scalar(value); }
  bool Integer(int64_t value) { return Scalar(value); }
  bool Unsigned(uint64_t value) { return Scalar(value); }
  bool Real(double value, const std::string& /*text*/) { return Scalar(value); }
  bool String(std::string& value) { return Scalar(std::move(value)); }
  bool BeginObject() { return Begin(Json::value_t::object); }
  bool BeginArray() { return Begin(Json::value_t::array); }
  bool EndObject() { return End(); }
  bool EndArray() { return End(); }
  bool Key(std::string& key) {
    if (part_ != nullptr && open_.size() == 1) member_ = key;
    if (part_ != nullptr && open_.size() == 2) name_ = key;
    key_ = std::move(key);
    return true;
  }

 private:
  template <class Value>
  bool Scalar(Value&& value) {
    Put(Json(std::forward<Value>(value)));
    Show();
    return true;
  }
  bool Begin(typename Json::value_t kind) {
    open_.push_back(Put(Json(kind)));
    return true;
  }
  bool End() {
    open_.pop_back();
    Show();
    return true;
  }

  Json* Put(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& into = *open_.back();
    if (into.is_array()) {
      into.push_back(std::move(value));
      return &into.back();
    }
    auto& members = into.template get_ref<typename Json::object_t&>();
    if constexpr (std::is_same_v<Json, ordered_json>) {
      // Its own insertion looks through all members; that no key appears twice is seen to at the object's end.
      using List = std::vector<typename Json::object_t::value_type>;
      static_cast<List&>(members).emplace_back(std::move(key_), std::move(value));
      return &static_cast<List&>(members).back().second;
    } else {
      return &(members[std::move(key_)] = std::move(value));
    }
  }

  // A member of a member is complete.
  void Show() {
    if constexpr (std::is_same_v<Json, json>) {
      if (part_ == nullptr || open_.size() != 2) return;
      Json& into = *open_.back();
      if (into.is_array()) {
        if (!(*part_)(member_, "", into.back())) into.template get_ref<json::array_t&>().pop_back();
      } else if (const auto it = into.find(name_); !(*part_)(member_, name_, *it)) {
        into.erase(it);
      }
    }
  }

  const JsonPart* part_;
  Json root_;
  std::vector<Json*> open_;
  std::string key_, member_, name_;  // the last key; that of the document, and that below it
};

template <class Json>
Result<Json> Build(std::string_view text, const std::string& path, const JsonLimits& limits, const JsonPart* part) {
  Builder<Json> builder(part);
  Result<bool> read = Guard(text, path, limits, builder).Run();
  if (!read.ok()) return read.TakeError();
  return builder.Take();
}

}  // namespace

template <class Json>
Result<Json> ParseJson(std::string_view text, const std::string& path, const JsonLimits& limits) {
  return Build<Json>(text, path, limits, nullptr);
}
template Result<json> ParseJson(std::string_view, const std::string&, const JsonLimits&);
template Result<ordered_json> ParseJson(std::string_view, const std::string&, const JsonLimits&);

Result<json> ParseJsonParts(std::string_view text, const std::string& path, const JsonLimits& limits,
                            const JsonPart& part) {
  return Build<json>(text, path, limits, &part);
}

Result<bool> ParseJsonEvents(std::string_view text, const std::string& path, const JsonLimits& limits,
                             JsonEvents& events) {
  return Guard(text, path, limits, events).Run();
}

std::string LineAndColumn(std::string_view text, size_t byte) {
  const std::string_view before = text.substr(0, byte > 0 ? byte - 1 : 0);
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const size_t line_begin = before.rfind('\n') + 1;  // 0 on the first line
  return "line " + std::to_string(line) + ", column " + std::to_string(before.size() - line_begin + 1);
}

}  // namespace mimo
