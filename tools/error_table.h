// The error report for people.
#pragma once

#include <string>

namespace mimo {

// Prints the roles of a report (ErrorReportJson) as a table on stdout; with `all`, its layers and tensors too.
void PrintErrorTable(const std::string& report, bool all);

}  // namespace mimo
