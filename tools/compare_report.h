// How the commands show what a comparison found (lib/verify/compare/compare.h).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "lib/verify/compare/compare.h"
#include "tools/cli.h"

namespace mimo::cli {

// The document of mimo-verify compare (schemas/compare.schema.json): one object per difference.
nlohmann::ordered_json CompareReportJson(const CompareReport& report);
// To stdout: the first differences, one per line, then the verdict; with --verbose notes too.
void PrintCompareReport(const CompareReport& report, const CommonOptions& common);
// --min-sqnr. kUsage for what is no threshold.
Status ReadThresholds(const std::vector<std::string>& texts, CompareOptions* options);

}  // namespace mimo::cli
