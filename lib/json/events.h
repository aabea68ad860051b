// A text of JSON taken apart: simdjson reads it, and from whatever it refuses on, nlohmann, whose word is the last one.
// Without limits; lib/json/parse.h is the way in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace mimo {

// What a document consists of, in its order. Returning false stops the reading.
class JsonEvents {
 public:
  virtual ~JsonEvents() = default;
  virtual bool Null() = 0;
  virtual bool Bool(bool value) = 0;
  virtual bool Integer(int64_t value) = 0;  // below 0, or "-0"
  virtual bool Unsigned(uint64_t value) = 0;
  virtual bool Real(double value, const std::string& text) = 0;  // finite; `text` as it is written
  virtual bool String(std::string& value) = 0;                   // may be moved from
  virtual bool BeginObject() = 0;
  virtual bool Key(std::string& key) = 0;  // may be moved from
  virtual bool EndObject() = 0;
  virtual bool BeginArray() = 0;
  virtual bool EndArray() = 0;
};

struct JsonEnd {
  enum class Kind : uint8_t {
    kWhole,
    kStopped,   // by an event
    kNoJson,    // a syntax error, or bytes that are no UTF-8
    kTooGreat,  // a number that no double holds
  };
  Kind kind = Kind::kWhole;
  size_t byte = 0;  // where a text is wrong, counted from 1
};

// Before what is wrong, `events` gets everything. An integer that no 64 bits hold is Real. A text ends at a NUL byte.
JsonEnd ReadJsonEvents(std::string_view text, JsonEvents& events);

}  // namespace mimo
