// A regular expression and a name, divided by the first line feed: an error or an answer, never a crash or a long time.
#include <cstddef>
#include <cstdint>
#include <string>

#include "lib/base/pattern.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const size_t end = text.find('\n');
  const auto pattern = mimo::Pattern::Make(text.substr(0, end));
  if (!pattern.ok()) {
    if (pattern.error().code != mimo::ErrorCode::kUsage) __builtin_trap();
    return 0;
  }
  (void)pattern.value().FoundIn(end == std::string::npos ? "" : text.substr(end + 1));
  return 0;
}
