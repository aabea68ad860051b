#include "tools/error_table.h"

#include <cstdio>
#include <nlohmann/json.hpp>

namespace mimo {

namespace {

// What is not finite is null, and shown as `otherwise`.
std::string Figure(const nlohmann::json& value, int digits = 7, const char* otherwise = "-") {
  if (!value.is_number()) return otherwise;
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", digits, value.get<double>());
  return text;
}

std::string Decibels(const nlohmann::json& value) {
  return Figure(value, 2, "exact");
}

void PrintRow(const std::string& name, const nlohmann::json& row, bool aggregate) {
  std::printf("%-18s ", name.c_str());
  if (aggregate) std::printf("%8ld ", row["tensors"].get<long>());
  std::printf("%9s ", Decibels(row["sqnr_db"]).c_str());
  if (aggregate) std::printf("%9s %9s ", Decibels(row["min_sqnr_db"]).c_str(), Decibels(row["median_sqnr_db"]).c_str());
  std::printf("%9s %10s %10s %9ld\n", Figure(row["relative_rms"]).c_str(), Figure(row["max_error_by_amax"]).c_str(),
              Figure(row["cosine"]).c_str(), row["saturated"].get<long>());
}

}  // namespace

void PrintErrorTable(const std::string& report, bool all) {
  const nlohmann::json document = nlohmann::json::parse(report, nullptr, false);
  if (!document.is_object() || document["roles"].empty()) return;
  const auto aggregates = [&](const char* list, const char* key) {
    std::printf("%-18s %8s %9s %9s %9s %9s %10s %10s %9s\n", key, "tensors", "SQNR dB", "min", "median", "rel. RMS",
                "max/amax", "cosine", "saturated");
    for (const nlohmann::json& row : document[list]) PrintRow(row[key].get<std::string>(), row, true);
  };
  aggregates("roles", "role");
  if (!all) return;
  aggregates("layers", "layer");
  std::printf("%-18s %9s %9s %10s %10s %9s\n", "tensor", "SQNR dB", "rel. RMS", "max/amax", "cosine", "saturated");
  for (const nlohmann::json& tensor : document["tensors"]) PrintRow(tensor["name"].get<std::string>(), tensor, false);
}

}  // namespace mimo
