// Options that contradict each other or the model.
#pragma once

#include <string>
#include <utility>

#include "lib/base/status.h"

namespace mimo {

inline Error UsageError(std::string what, std::string expected, std::string found, std::string advice = "") {
  Error e;
  e.code = ErrorCode::kUsage;
  e.what = std::move(what);
  e.expected = std::move(expected);
  e.found = std::move(found);
  e.advice = std::move(advice);
  return e;
}

}  // namespace mimo
