// The one entry point for JSON. What it accepts is what the library's own parser accepts, and holds the limits; the
// ways of reading agree, two of which take turns for the sake of speed.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "lib/json/parse.h"

namespace {

using nlohmann::json;

size_t DepthOf(const json& value) {
  size_t deepest = 0;
  if (value.is_structured())
    for (const json& inner : value) deepest = std::max(deepest, DepthOf(inner));
  return deepest + (value.is_structured() ? 1 : 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const mimo::JsonLimits limits;
  const auto read = mimo::ParseJson<json>(text, "x", limits);
  if (size % 2 == 0) {
    const auto ordered = mimo::ParseJson<nlohmann::ordered_json>(text, "x", limits);
    if (read.ok() != ordered.ok() || (read.ok() && json(ordered.value()) != read.value())) __builtin_trap();
  } else {
    const auto parts = mimo::ParseJsonParts(
        text, "x", limits, [](const std::string&, const std::string&, json& value) { return !value.is_null(); });
    if (read.ok() != parts.ok()) __builtin_trap();
  }
  if (!read.ok()) {
    if (read.error().found.size() > 600 || read.error().file != "x") __builtin_trap();
    return 0;
  }
  const json own = json::parse(text, nullptr, false);
  if (own.is_discarded() || own != read.value() || DepthOf(own) > limits.depth) __builtin_trap();
  return 0;
}
