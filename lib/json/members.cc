#include "lib/json/members.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <utility>

namespace mimo {

using nlohmann::json;

JsonProblems::JsonProblems(std::string path, std::string advice) : path_(std::move(path)), advice_(std::move(advice)) {}

void JsonProblems::Add(const std::string& place, std::string_view key, std::string expected, const json* found) {
  if (error_) return;
  std::string text = found == nullptr ? "nothing" : found->dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  AddText(place + (key.empty() ? "" : " \"" + std::string(key) + "\""), std::move(expected), std::move(text));
}

void JsonProblems::AddText(std::string what, std::string expected, std::string found) {
  if (error_) return;
  error_ = BadInput("bad value of " + std::move(what))
               .File(path_)
               .Expected(std::move(expected))
               .Found(std::move(found))
               .Advice(advice_);
}

Status JsonProblems::Take() {
  return error_ ? Status(std::move(*error_)) : Status();
}

template <class T>
std::optional<T> IntegerOf(const json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    if (number <= static_cast<uint64_t>(std::numeric_limits<T>::max())) return static_cast<T>(number);
  } else if (value.is_number_integer() && std::is_signed_v<T>) {
    const auto number = value.get<int64_t>();
    if (number >= static_cast<int64_t>(std::numeric_limits<T>::min()) && number <= 0) return static_cast<T>(number);
  }
  return std::nullopt;
}

JsonMembers::JsonMembers(const json& object, JsonProblems& problems, const char* list, size_t index)
    : object_(object), problems_(problems), list_(list), index_(index) {
  if (!object_.is_object()) problems_.Add(Place(), "", "an object", &object_);
}

std::string JsonMembers::Place() const {
  return index_ == kNoIndex ? std::string(list_) : std::string(list_) + "[" + std::to_string(index_) + "]";
}

bool JsonMembers::Has(const char* key) const {
  return object_.is_object() && object_.contains(key);
}

const json* JsonMembers::Find(const char* key) {
  if (!object_.is_object()) return nullptr;
  auto it = object_.find(key);
  if (it == object_.end()) return nullptr;
  ++used_;
  return &*it;
}

const json& JsonMembers::Array(const char* key) {
  static const json kEmpty = json::array();
  const json* value = Find(key);
  if (value != nullptr && value->is_array()) return *value;
  problems_.Add(Place(), key, "an array", value);
  return kEmpty;
}

const json& JsonMembers::Object(const char* key) {
  static const json kEmpty = json::object();
  const json* value = Find(key);
  if (value != nullptr && value->is_object()) return *value;
  problems_.Add(Place(), key, "an object", value);
  return kEmpty;
}

template <class T>
T JsonMembers::Integer(const char* key, std::optional<T> usual) {
  const json* value = Find(key);
  if (value == nullptr && usual) return *usual;
  if (value != nullptr) {
    if (std::optional<T> number = IntegerOf<T>(*value)) return *number;
  }
  problems_.Add(Place(), key, "an integer in range", value);
  return T{};
}

template std::optional<int32_t> IntegerOf(const json&);
template std::optional<int64_t> IntegerOf(const json&);
template std::optional<uint32_t> IntegerOf(const json&);
template std::optional<uint64_t> IntegerOf(const json&);
template int32_t JsonMembers::Integer(const char*, std::optional<int32_t>);
template int64_t JsonMembers::Integer(const char*, std::optional<int64_t>);
template uint32_t JsonMembers::Integer(const char*, std::optional<uint32_t>);
template uint64_t JsonMembers::Integer(const char*, std::optional<uint64_t>);

double JsonMembers::Real(const char* key, std::optional<double> usual) {
  const json* value = Find(key);
  if (value == nullptr && usual) return *usual;
  if (value != nullptr && value->is_number()) return value->get<double>();
  problems_.Add(Place(), key, "a number", value);
  return 0;
}

double JsonMembers::RealOrNaN(const char* key) {
  const json* value = Find(key);
  return value != nullptr && value->is_number() ? value->get<double>() : std::numeric_limits<double>::quiet_NaN();
}

bool JsonMembers::Bool(const char* key, std::optional<bool> usual) {
  const json* value = Find(key);
  if (value == nullptr && usual) return *usual;
  if (value != nullptr && value->is_boolean()) return value->get<bool>();
  problems_.Add(Place(), key, "true or false", value);
  return false;
}

std::string JsonMembers::String(const char* key, std::optional<std::string> usual) {
  const json* value = Find(key);
  if (value == nullptr && usual) return std::move(*usual);
  if (value != nullptr && value->is_string()) return value->get<std::string>();
  problems_.Add(Place(), key, "a string", value);
  return "";
}

std::vector<std::string> JsonMembers::Strings(const char* key) {
  std::vector<std::string> values;
  for (const json& value : Array(key)) {
    if (!value.is_string()) {
      problems_.Add(Place(), key, "strings", &value);
      break;
    }
    values.push_back(value.get<std::string>());
  }
  return values;
}

void JsonMembers::Close() {
  if (!problems_.ok() || !object_.is_object() || used_ == object_.size()) return;
  problems_.AddText(Place(), "known members only", std::to_string(object_.size() - used_) + " more");
}

}  // namespace mimo
