// What a run did, for people and as "run" of the document of mimo-convert (schemas/convert.schema.json).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "lib/run/report.h"

namespace mimo {

// With `verbose` also the names of what no checksum was compared of.
nlohmann::ordered_json RunReportJson(const RunReport& report, bool verbose);
void PrintRunReport(const std::string& output, const RunReport& report, bool verbose);

}  // namespace mimo
