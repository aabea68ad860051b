// Results of a run as members of JSON objects, the same in the manifest and in the records of a partial output.
// Internal.
#pragma once

#include <charconv>
#include <cmath>
#include <limits>
#include <string>

#include "lib/plan/json_members.h"
#include "lib/plan/json_text.h"
#include "lib/verify/manifest.h"

namespace mimo {

// The shortest text that reads back as the same double. What is not finite (only with anomalies allowed) is null.
inline void AppendDouble(std::string& out, double value) {
  if (!std::isfinite(value)) {
    out += "null";
    return;
  }
  char digits[40];
  const auto [end, error] = std::to_chars(digits, digits + sizeof digits, value);
  (void)error;  // 40 characters hold every double
  out.append(digits, end);
}

// Members that are zero are left out.
inline void AddAnomalies(JsonObject& object, const kernels::Anomalies& anomalies) {
  const auto count = [&](const char* key, uint64_t value) {
    if (value != 0) object.Number(key, value);
  };
  count("nan_codes", anomalies.nan_codes);
  count("infinities", anomalies.infinities);
  count("zero_scale_codes", anomalies.zero_scale_codes);
  count("bad_scales", anomalies.bad_scales);
  count("overflows", anomalies.overflows);
}

inline kernels::Anomalies TakeAnomalies(JsonMembers& members) {
  kernels::Anomalies anomalies;
  anomalies.nan_codes = members.Integer<uint64_t>("nan_codes", 0);
  anomalies.infinities = members.Integer<uint64_t>("infinities", 0);
  anomalies.zero_scale_codes = members.Integer<uint64_t>("zero_scale_codes", 0);
  anomalies.bad_scales = members.Integer<uint64_t>("bad_scales", 0);
  anomalies.overflows = members.Integer<uint64_t>("overflows", 0);
  return anomalies;
}

inline void AddBlocks(JsonObject& object, const RelayoutResult& blocks) {
  object.Number("moved_blocks", blocks.moved_blocks);
  object.Number("equal_scale_blocks", blocks.equal_scale_blocks);
  object.Number("requantized_blocks", blocks.requantized_blocks);
  AppendDouble(object.Key("squared_error"), blocks.squared_error);
  AppendDouble(object.Key("squared_sum"), blocks.squared_sum);
  AppendDouble(object.Key("max_error"), blocks.max_error);
}

inline RelayoutResult TakeBlocks(JsonMembers& members) {
  const auto number = [&](const char* key) {
    const nlohmann::json* value = members.Find(key);
    return value != nullptr && value->is_number() ? value->get<double>() : std::numeric_limits<double>::quiet_NaN();
  };
  RelayoutResult blocks;
  blocks.moved_blocks = members.Integer<uint64_t>("moved_blocks");
  blocks.equal_scale_blocks = members.Integer<uint64_t>("equal_scale_blocks");
  blocks.requantized_blocks = members.Integer<uint64_t>("requantized_blocks");
  blocks.squared_error = number("squared_error");
  blocks.squared_sum = number("squared_sum");
  blocks.max_error = number("max_error");
  return blocks;
}

}  // namespace mimo
