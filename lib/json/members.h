// Strict reading of JSON objects: every member is asked for by name and type, and what nobody asked for is an error.
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "lib/base/status.h"

namespace mimo {

// Keeps the first problem; later reads return zeros.
class JsonProblems {
 public:
  explicit JsonProblems(std::string path, std::string advice) : path_(std::move(path)), advice_(std::move(advice)) {}
  void Add(const std::string& place, std::string_view key, std::string expected, const nlohmann::json* found) {
    if (error_) return;
    std::string text =
        found == nullptr ? "nothing" : found->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    if (text.size() > 80) text = text.substr(0, 77) + "...";
    AddText(place + (key.empty() ? "" : " \"" + std::string(key) + "\""), std::move(expected), std::move(text));
  }
  void AddText(std::string what, std::string expected, std::string found) {
    if (error_) return;
    Error error = BadInput("bad value of " + std::move(what))
                      .File(path_)
                      .Expected(std::move(expected))
                      .Found(std::move(found))
                      .Advice(advice_);
    error_ = std::move(error);
  }
  bool ok() const { return !error_.has_value(); }
  Status Take() { return error_ ? Status(std::move(*error_)) : Status(); }

 private:
  std::string path_, advice_;
  std::optional<Error> error_;
};

// An integer of type T, or nullopt when `value` is none or out of range.
template <class T>
std::optional<T> IntegerOf(const nlohmann::json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    if (number <= static_cast<uint64_t>(std::numeric_limits<T>::max())) return static_cast<T>(number);
  } else if (value.is_number_integer() && std::is_signed_v<T>) {
    const auto number = value.get<int64_t>();
    if (number >= static_cast<int64_t>(std::numeric_limits<T>::min()) && number <= 0) return static_cast<T>(number);
  }
  return std::nullopt;
}

// The members of one object. `list` and `index` say where it stands, for messages.
class JsonMembers {
 public:
  JsonMembers(const nlohmann::json& object, JsonProblems& problems, const char* list, size_t index = kNoIndex)
      : object_(object), problems_(problems), list_(list), index_(index) {
    if (!object_.is_object()) problems_.Add(Place(), "", "an object", &object_);
  }
  static constexpr size_t kNoIndex = static_cast<size_t>(-1);

  std::string Place() const {
    return index_ == kNoIndex ? std::string(list_) : std::string(list_) + "[" + std::to_string(index_) + "]";
  }
  bool Has(const char* key) const { return object_.is_object() && object_.contains(key); }
  const nlohmann::json* Find(const char* key) {
    if (!object_.is_object()) return nullptr;
    auto it = object_.find(key);
    if (it == object_.end()) return nullptr;
    ++used_;
    return &*it;
  }
  const nlohmann::json& Array(const char* key) {
    static const nlohmann::json kEmpty = nlohmann::json::array();
    const nlohmann::json* value = Find(key);
    if (value != nullptr && value->is_array()) return *value;
    problems_.Add(Place(), key, "an array", value);
    return kEmpty;
  }
  const nlohmann::json& Object(const char* key) {
    static const nlohmann::json kEmpty = nlohmann::json::object();
    const nlohmann::json* value = Find(key);
    if (value != nullptr && value->is_object()) return *value;
    problems_.Add(Place(), key, "an object", value);
    return kEmpty;
  }
  template <class T>
  T Integer(const char* key, std::optional<T> usual = std::nullopt) {
    const nlohmann::json* value = Find(key);
    if (value == nullptr && usual) return *usual;
    if (value != nullptr) {
      if (std::optional<T> number = IntegerOf<T>(*value)) return *number;
    }
    problems_.Add(Place(), key, "an integer in range", value);
    return T{};
  }
  double Real(const char* key, std::optional<double> usual = std::nullopt) {
    const nlohmann::json* value = Find(key);
    if (value == nullptr && usual) return *usual;
    if (value != nullptr && value->is_number()) return value->get<double>();
    problems_.Add(Place(), key, "a number", value);
    return 0;
  }
  bool Bool(const char* key, std::optional<bool> usual = false) {
    const nlohmann::json* value = Find(key);
    if (value == nullptr && usual) return *usual;
    if (value != nullptr && value->is_boolean()) return value->get<bool>();
    problems_.Add(Place(), key, "true or false", value);
    return false;
  }
  std::string String(const char* key, std::optional<std::string> usual = std::nullopt) {
    const nlohmann::json* value = Find(key);
    if (value == nullptr && usual) return std::move(*usual);
    if (value != nullptr && value->is_string()) return value->get<std::string>();
    problems_.Add(Place(), key, "a string", value);
    return "";
  }
  std::vector<std::string> Strings(const char* key) {
    std::vector<std::string> values;
    for (const nlohmann::json& value : Array(key)) {
      if (!value.is_string()) {
        problems_.Add(Place(), key, "strings", &value);
        break;
      }
      values.push_back(value.get<std::string>());
    }
    return values;
  }
  // Once all that is known was asked for.
  void Close() {
    if (!problems_.ok() || !object_.is_object() || used_ == object_.size()) return;
    problems_.AddText(Place(), "known members only", std::to_string(object_.size() - used_) + " more");
  }

 private:
  const nlohmann::json& object_;
  JsonProblems& problems_;
  const char* list_;
  size_t index_;
  size_t used_ = 0;
};

}  // namespace mimo
