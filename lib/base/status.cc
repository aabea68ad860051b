#include "lib/base/status.h"

#include <utility>

namespace mimo {

Error CheckFailed(std::string what) {
  return {.code = ErrorCode::kCheckFailed, .what = std::move(what)};
}
Error UsageError(std::string what) {
  return {.code = ErrorCode::kUsage, .what = std::move(what)};
}
Error BadInput(std::string what) {
  return {.code = ErrorCode::kBadInput, .what = std::move(what)};
}
Error IoError(std::string what) {
  return {.code = ErrorCode::kIo, .what = std::move(what)};
}
Error DeviceError(std::string what) {
  return {.code = ErrorCode::kDevice, .what = std::move(what)};
}
Error Interrupted(std::string what) {
  return {.code = ErrorCode::kInterrupted, .what = std::move(what)};
}

Error Error::With(std::string Error::*field, std::string text) {
  this->*field = std::move(text);
  return std::move(*this);
}

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
  if (!id.empty()) out += " [" + id + "]";
  return out;
}

}  // namespace mimo
