// Text that is made and handed on piece by piece.
#pragma once

#include <functional>
#include <string_view>

#include "lib/base/status.h"

namespace mimo {

// Receives consecutive pieces of a text. An error stops the writing and is returned.
using TextSink = std::function<Status(std::string_view)>;
// Makes a text: hands its pieces to the sink, and stops at the first error.
using TextSource = std::function<Status(const TextSink&)>;

}  // namespace mimo
