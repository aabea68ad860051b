#include "tools/error_table.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "lib/json/parse.h"
#include "tools/print.h"

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
  cli::Print(stdout, "%-18s ", name);
  if (aggregate) cli::Print(stdout, "%8ld ", row["tensors"].get<long>());
  cli::Print(stdout, "%9s ", Decibels(row["sqnr_db"]));
  if (aggregate) cli::Print(stdout, "%9s %9s ", Decibels(row["min_sqnr_db"]), Decibels(row["median_sqnr_db"]));
  cli::Print(stdout, "%9s %10s %10s %9ld\n", Figure(row["relative_rms"]), Figure(row["max_error_by_amax"]),
             Figure(row["cosine"]), row["saturated"].get<long>());
}

}  // namespace

void PrintErrorTable(const std::string& report, bool all) {
  const Result<nlohmann::json> parsed = ParseJson<nlohmann::json>(report, "the report", kLongDocument);
  if (!parsed.ok() || !parsed.value().is_object()) return;
  const nlohmann::json& document = parsed.value();
  if (document["roles"].empty()) return;
  const auto aggregates = [&](const char* list, const char* key) {
    cli::Print(stdout, "%-18s %8s %9s %9s %9s %9s %10s %10s %9s\n", key, "tensors", "SQNR dB", "min", "median",
               "rel. RMS", "max/amax", "cosine", "saturated");
    for (const nlohmann::json& row : document[list]) PrintRow(row[key].get<std::string>(), row, true);
  };
  aggregates("roles", "role");
  if (!all) return;
  aggregates("layers", "layer");
  cli::Print(stdout, "%-18s %9s %9s %10s %10s %9s\n", "tensor", "SQNR dB", "rel. RMS", "max/amax", "cosine",
             "saturated");
  for (const nlohmann::json& tensor : document["tensors"]) PrintRow(tensor["name"].get<std::string>(), tensor, false);
}

}  // namespace mimo
