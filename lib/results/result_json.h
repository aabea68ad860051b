// Results of a run as members of JSON objects, the same in the manifest and in the records of a partial output.
// Internal.
#pragma once

#include <charconv>
#include <cmath>
#include <limits>
#include <string>
#include <type_traits>

#include "lib/json/members.h"
#include "lib/json/text.h"
#include "lib/results/manifest.h"

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

// What AppendDouble wrote; NaN for null.
inline double TakeDouble(JsonMembers& members, const char* key) {
  return members.RealOrNaN(key);
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

inline void AddCount(JsonObject& object, const char* key, uint64_t value) {
  object.Number(key, value);
}
inline void AddCount(JsonObject& object, const char* key, double value) {
  AppendDouble(object.Key(key), value);
}
inline void AddGridCounts(JsonObject& object, const BlockCounts& counts) {
  VisitGridCounts([&](const char* key, auto member) { AddCount(object, key, counts.*member); });
}
inline void AddCounts(JsonObject& object, const BlockCounts& counts) {
  VisitCounts([&](const char* key, auto member) { AddCount(object, key, counts.*member); });
}

// What AddGridCounts or AddCounts wrote. The first version of the documents had moved, equal and re-quantized blocks;
// counts that came later are zero where they are absent.
inline BlockCounts TakeCounts(JsonMembers& members) {
  BlockCounts counts;
  VisitCounts([&](const char* key, auto member) {
    if constexpr (std::is_same_v<decltype(member), double BlockCounts::*>) {
      counts.*member = TakeDouble(members, key);
    } else if (member == &BlockCounts::moved_blocks || member == &BlockCounts::equal_scale_blocks ||
               member == &BlockCounts::requantized_blocks) {
      counts.*member = members.Integer<uint64_t>(key);
    } else {
      counts.*member = members.Integer<uint64_t>(key, 0);
    }
  });
  return counts;
}

// The figures of one tensor or of several. An infinite SQNR (no error at all) is null.
inline void AddError(JsonObject& object, const kernels::ErrorSums& sums) {
  const auto real = [&](const char* key, double value) { AppendDouble(object.Key(key), value); };
  real("sqnr_db", SqnrDb(sums));
  real("relative_rms", RelativeRms(sums));
  real("max_error_by_amax", MaxErrorByAmax(sums));
  real("cosine", Cosine(sums));
  object.Number("elements", sums.elements);
  object.Number("zero_blocks", sums.zero_blocks);
  object.Number("saturated", sums.saturated);
  object.Number("least_scales", sums.least_scales);
  object.Number("largest_scales", sums.largest_scales);
  object.Number("nan_codes", sums.nan_codes);
  real("squared_error", sums.error);
  real("squared_source", sums.source);
  real("squared_target", sums.target);
  real("product", sums.product);
  real("max_error", sums.max_error);
  real("amax", sums.amax);
}

// The sums that AddError wrote; derived figures are passed over.
inline kernels::ErrorSums TakeError(JsonMembers& members) {
  for (const char* derived : {"sqnr_db", "relative_rms", "max_error_by_amax", "cosine"}) members.Find(derived);
  kernels::ErrorSums sums;
  sums.elements = members.Integer<uint64_t>("elements");
  sums.zero_blocks = members.Integer<uint64_t>("zero_blocks");
  sums.saturated = members.Integer<uint64_t>("saturated");
  sums.least_scales = members.Integer<uint64_t>("least_scales");
  sums.largest_scales = members.Integer<uint64_t>("largest_scales");
  sums.nan_codes = members.Integer<uint64_t>("nan_codes");
  sums.error = TakeDouble(members, "squared_error");
  sums.source = TakeDouble(members, "squared_source");
  sums.target = TakeDouble(members, "squared_target");
  sums.product = TakeDouble(members, "product");
  sums.max_error = TakeDouble(members, "max_error");
  sums.amax = TakeDouble(members, "amax");
  return sums;
}

}  // namespace mimo
