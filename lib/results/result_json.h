// Results of a run as members of JSON objects, the same in the manifest and in the records of a partial output.
// Internal.
#pragma once

#include <charconv>
#include <cmath>
#include <limits>
#include <string>

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

inline void AddBlocks(JsonObject& object, const RelayoutResult& blocks) {
  object.Number("moved_blocks", blocks.moved_blocks);
  object.Number("equal_scale_blocks", blocks.equal_scale_blocks);
  object.Number("requantized_blocks", blocks.requantized_blocks);
  object.Number("kept_blocks", blocks.kept_blocks);
  object.Number("fresh_blocks", blocks.fresh_blocks);
  AppendDouble(object.Key("squared_error"), blocks.squared_error);
  AppendDouble(object.Key("squared_sum"), blocks.squared_sum);
  AppendDouble(object.Key("max_error"), blocks.max_error);
}

inline RelayoutResult TakeBlocks(JsonMembers& members) {
  RelayoutResult blocks;
  blocks.moved_blocks = members.Integer<uint64_t>("moved_blocks");
  blocks.equal_scale_blocks = members.Integer<uint64_t>("equal_scale_blocks");
  blocks.requantized_blocks = members.Integer<uint64_t>("requantized_blocks");
  blocks.kept_blocks = members.Integer<uint64_t>("kept_blocks", 0);
  blocks.fresh_blocks = members.Integer<uint64_t>("fresh_blocks", 0);
  blocks.squared_error = TakeDouble(members, "squared_error");
  blocks.squared_sum = TakeDouble(members, "squared_sum");
  blocks.max_error = TakeDouble(members, "max_error");
  return blocks;
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
