// The one way in for JSON. Whoever wrote a document, it is bounded before anything is built of it: its length, how deep
// it nests, how long a string or key is, how many values there are, and which numbers there can be. So nothing that
// walks, prints, compares or destroys a document can recurse deeply, and no document is much larger in memory than on
// disk.
//
// Refused beside what is no JSON: bytes that are no UTF-8, a NUL byte, an integer that no 64 bits hold, a number that
// no finite double holds, and a key that appears twice in one object, of which every reader would take another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "lib/base/status.h"
#include "lib/json/events.h"

namespace mimo {

// What is wrong with a text that is no JSON at all; other errors are about limits.
inline constexpr char kNotJson[] = "not JSON";

struct JsonLimits {
  size_t bytes = size_t{64} << 20;  // of the whole text
  size_t depth = 64;                // of arrays and objects in each other; the documents that exist have up to 12
  size_t string_bytes = 1 << 20;    // of one string
  size_t key_bytes = 8192;          // of one key: a tensor's name and more
  size_t values = size_t{8} << 20;  // of every kind, arrays and objects included
  // False, for a reader of events: it looks for keys that appear twice itself, and gets integers that no 64 bits hold
  // as Real.
  bool strict = true;
};

// Of documents that we write ourselves, which list every tensor and may hold other documents as strings.
inline constexpr JsonLimits kLongDocument = {
    .bytes = size_t{1} << 30, .string_bytes = size_t{1} << 30, .values = size_t{256} << 20};

// The document as a value. Json is nlohmann::json or nlohmann::ordered_json. kBadInput, with `path` as the file: it
// says which limit, what was found and where.
template <class Json>
Result<Json> ParseJson(std::string_view text, const std::string& path, const JsonLimits& limits = {});

// Sees every value that stands in an array or object that is a member of the document: in {"list": [1], "map": {"a":
// 2}} these are ("list", "", 1) and ("map", "a", 2). It may move from the value, and returns whether the value is kept
// in the document.
using JsonPart = std::function<bool(const std::string& member, const std::string& key, nlohmann::json& value)>;
// The same as ParseJson, for documents with long lists: what `part` takes is never all in memory.
Result<nlohmann::json> ParseJsonParts(std::string_view text, const std::string& path, const JsonLimits& limits,
                                      const JsonPart& part);

// Reads a document without keeping it. False when `events` stopped the reading; errors as ParseJson. The end of an
// object is where a key that appears twice in it is found.
Result<bool> ParseJsonEvents(std::string_view text, const std::string& path, const JsonLimits& limits,
                             JsonEvents& events);

// "line 3, column 7" of the byte with number `byte`, counted from 1.
std::string LineAndColumn(std::string_view text, size_t byte);

}  // namespace mimo
