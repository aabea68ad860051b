#include "tools/finding_report.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/print.h"

namespace mimo::cli {

nlohmann::ordered_json FindingJson(const Finding& finding) {
  nlohmann::ordered_json json = {{"id", finding.id}, {"severity", WordOf(kSeverities, finding.severity)}};
  if (!finding.place.empty()) json["place"] = finding.place;
  json["evidence"] = finding.evidence;
  if (!finding.advice.empty()) json["advice"] = finding.advice;
  json["count"] = finding.count;
  return json;
}

nlohmann::ordered_json FindingsJson(const Verdict& verdict) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Finding& finding : verdict.findings()) list.push_back(FindingJson(finding));
  return list;
}

void PrintFindings(const std::string& name, const Verdict& verdict, const CommonOptions& options) {
  if (options.quiet) return;
  for (const Finding& finding : verdict.findings())
    if (options.verbose || finding.severity != Severity::kNote) Print(stderr, "%s: %s\n", name, finding.Line());
}

}  // namespace mimo::cli
