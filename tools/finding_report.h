// How the tools show the verdict document (lib/judge/finding.h).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "lib/judge/finding.h"
#include "tools/cli.h"

namespace mimo::cli {

// {"id", "severity", "place", "evidence", "advice", "count"}; empty texts are left out.
nlohmann::ordered_json FindingJson(const Finding& finding);
// The list of them.
nlohmann::ordered_json FindingsJson(const Verdict& verdict);
// Warnings and errors on stderr, unless --quiet; with --verbose notes too.
void PrintFindings(const std::string& name, const Verdict& verdict, const CommonOptions& options);

}  // namespace mimo::cli
