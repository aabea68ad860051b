// What --dry-run says of the run itself: OUT as it is, space, units, time.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "lib/base/status.h"
#include "lib/run/forecast.h"

namespace mimo {

// Bytes per second of one process.
struct Rates {
  uint64_t read = 0;
  uint64_t write = 0;
};
// "5GB,3GB". kUsage.
Result<Rates> ParseRates(const std::string& text);

// Seconds that this share takes at least at these rates, reading and writing at once.
double SecondsAtLeast(const Forecast& forecast, const Rates& rates);

void PrintForecast(const std::string& output, const Forecast& forecast, const std::optional<Rates>& rates);
nlohmann::ordered_json ForecastJson(const Forecast& forecast, const std::optional<Rates>& rates);

}  // namespace mimo
