#include "lib/base/status.h"

#include <utility>

namespace mimo {
namespace {

Error Make(ErrorCode code, std::string what) {
  Error error;
  error.code = code;
  error.what = std::move(what);
  return error;
}

}  // namespace

Error CheckFailed(std::string what) {
  return Make(ErrorCode::kCheckFailed, std::move(what));
}
Error UsageError(std::string what) {
  return Make(ErrorCode::kUsage, std::move(what));
}
Error BadInput(std::string what) {
  return Make(ErrorCode::kBadInput, std::move(what));
}
Error IoError(std::string what) {
  return Make(ErrorCode::kIo, std::move(what));
}
Error DeviceError(std::string what) {
  return Make(ErrorCode::kDevice, std::move(what));
}
Error Interrupted(std::string what) {
  return Make(ErrorCode::kInterrupted, std::move(what));
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
  return out;
}

}  // namespace mimo
