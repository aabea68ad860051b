#include "tools/error_table.h"

#include <cstdio>
#include <nlohmann/json.hpp>

namespace mimo {

namespace {

std::string Decibels(const nlohmann::json& value) {
  if (!value.is_number()) return "exact";
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", value.get<double>());
  return text;
}

}  // namespace

void PrintErrorTable(const std::string& report) {
  const nlohmann::json document = nlohmann::json::parse(report, nullptr, false);
  if (!document.is_object() || document["roles"].empty()) return;
  std::printf("%-18s %8s %9s %9s %9s %9s %10s %10s %9s\n", "role", "tensors", "SQNR dB", "min", "median", "rel. RMS",
              "max/amax", "cosine", "saturated");
  for (const nlohmann::json& role : document["roles"]) {
    std::printf("%-18s %8ld %9s %9s %9s %9.5f %10.5f %10.7f %9ld\n", role["role"].get<std::string>().c_str(),
                role["tensors"].get<long>(), Decibels(role["sqnr_db"]).c_str(), Decibels(role["min_sqnr_db"]).c_str(),
                Decibels(role["median_sqnr_db"]).c_str(), role["relative_rms"].get<double>(),
                role["max_error_by_amax"].get<double>(), role["cosine"].get<double>(), role["saturated"].get<long>());
  }
}

}  // namespace mimo
