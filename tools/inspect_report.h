// How mimo-inspect shows a description: as text, and as JSON (schemas/inspect.schema.json).
#pragma once

#include <string>

#include "lib/base/status.h"
#include "lib/inspect/describe.h"

namespace mimo::cli {

// One document; `error` is null when the checkpoint was understood.
std::string InspectJson(const std::string& checkpoint, const Description& description, const Error* error);

// For a terminal. `verbose` adds a line per layer, file and role, and the sources of what is said of engines.
std::string InspectText(const std::string& checkpoint, const Description& description, bool verbose);

}  // namespace mimo::cli
