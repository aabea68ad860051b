#include "lib/base/status.h"

namespace mimo {

std::string Error::Message() const {
  std::string out;
  const auto part = [&out](const char* separator, const char* label, const std::string& text) {
    if (text.empty()) return;
    if (!out.empty()) out += separator;
    out += label;
    out += text;
  };
  part("", "", file);
  part(": ", "tensor ", tensor);
  part(": ", "", what);
  part(": ", "expected ", expected);
  part(expected.empty() ? ": " : ", ", "found ", found);
  part("; ", "", advice);
  return out;
}

}  // namespace mimo
