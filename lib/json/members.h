// Strict reading of JSON objects: every member is asked for by name and type, and what nobody asked for is an error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/status.h"

namespace mimo {

// Keeps the first problem; later reads return zeros.
class JsonProblems {
 public:
  // `path` and `advice` are those of the error.
  explicit JsonProblems(std::string path, std::string advice);
  // `found`: null for nothing.
  void Add(const std::string& place, std::string_view key, std::string expected, const nlohmann::json* found);
  void AddText(std::string what, std::string expected, std::string found);
  bool ok() const { return !error_.has_value(); }
  Status Take();

 private:
  std::string path_, advice_;
  std::optional<Error> error_;
};

// An integer of type T, or nullopt when `value` is none or out of range. T is one of the fixed-width types that
// members.cc lists.
template <class T>
std::optional<T> IntegerOf(const nlohmann::json& value);

// The members of one object. `list` and `index` say where it stands, for messages. With a `usual` value a member may be
// absent.
class JsonMembers {
 public:
  static constexpr size_t kNoIndex = static_cast<size_t>(-1);
  // All references outlive the reader.
  JsonMembers(const nlohmann::json& object, JsonProblems& problems, const char* list, size_t index = kNoIndex);

  std::string Place() const;
  bool Has(const char* key) const;
  // Null where there is no such member.
  const nlohmann::json* Find(const char* key);
  const nlohmann::json& Array(const char* key);
  const nlohmann::json& Object(const char* key);
  template <class T>
  T Integer(const char* key, std::optional<T> usual = std::nullopt);
  double Real(const char* key, std::optional<double> usual = std::nullopt);
  double RealOrNaN(const char* key);  // NaN where there is no number
  bool Bool(const char* key, std::optional<bool> usual = false);
  std::string String(const char* key, std::optional<std::string> usual = std::nullopt);
  std::vector<std::string> Strings(const char* key);
  // Once all that is known was asked for.
  void Close();

 private:
  const nlohmann::json& object_;
  JsonProblems& problems_;
  const char* list_;
  size_t index_;
  size_t used_ = 0;
};

}  // namespace mimo
