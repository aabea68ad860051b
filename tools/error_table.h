// The error report for people.
#pragma once

#include <string>

namespace mimo {

// Prints the roles of a report (ErrorReportJson) as a table on stdout.
void PrintErrorTable(const std::string& report);

}  // namespace mimo
