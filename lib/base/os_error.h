// The one place that turns an errno into an Error, so that real and injected failures read the same.
#pragma once

#include <string>

#include "lib/base/status.h"

namespace mimo {

// kIo; `what` is a clause such as "cannot open for reading". Advice is added where there is something to do.
Error OsError(std::string what, const std::string& path, int error_number);

}  // namespace mimo
