// Results of a run as members of JSON objects, the same in the manifest and in the records of a partial output.
// Internal.
#pragma once

#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <string>

#include "lib/json/members.h"
#include "lib/json/text.h"
#include "lib/results/manifest.h"

namespace mimo {

// The shortest text that reads back as the same double; with an exponent where digits alone would be an integer that no
// 64 bits hold. What is not finite (only with anomalies allowed) is null.
inline void AppendDouble(std::string& out, double value) {
  if (!std::isfinite(value)) {
    out += "null";
    return;
  }
  char digits[40];  // hold every double
  char* const end = digits + sizeof digits;
  const bool large = std::abs(value) >= 0x1p63;
  out.append(digits, large ? std::to_chars(digits, end, value, std::chars_format::scientific).ptr
                           : std::to_chars(digits, end, value).ptr);
}

// What AppendDouble wrote; NaN for null.
inline double TakeDouble(JsonMembers& members, const char* key) {
  return members.RealOrNaN(key);
}

inline void AppendThreshold(std::string& out, const Threshold& threshold) {
  JsonObject object(out);
  object.String("role", threshold.role);
  AppendDouble(object.Key("min_sqnr_db"), threshold.min_sqnr_db);
}

// Calls visit(name, member) with the name in JSON and the pointer to member of each count.
template <class Visit>
void VisitAnomalies(Visit visit) {
  using kernels::Anomalies;
  visit("nan_codes", &Anomalies::nan_codes);
  visit("infinities", &Anomalies::infinities);
  visit("zero_scale_codes", &Anomalies::zero_scale_codes);
  visit("bad_scales", &Anomalies::bad_scales);
  visit("overflows", &Anomalies::overflows);
}

// Members that are zero are left out.
inline void AddAnomalies(JsonObject& object, const kernels::Anomalies& anomalies) {
  VisitAnomalies([&](const char* key, auto member) {
    if (anomalies.*member != 0) object.Number(key, anomalies.*member);
  });
}

inline kernels::Anomalies TakeAnomalies(JsonMembers& members) {
  kernels::Anomalies anomalies;
  VisitAnomalies([&](const char* key, auto member) { anomalies.*member = members.Integer<uint64_t>(key, 0); });
  return anomalies;
}

inline void AddCount(JsonObject& object, const char* key, uint64_t value) {
  object.Number(key, value);
}
inline void AddCount(JsonObject& object, const char* key, double value) {
  AppendDouble(object.Key(key), value);
}
inline void TakeCount(JsonMembers& members, const char* key, uint64_t* value) {
  *value = members.Integer<uint64_t>(key);
}
inline void TakeCount(JsonMembers& members, const char* key, double* value) {
  *value = TakeDouble(members, key);
}
inline void AddGridCounts(JsonObject& object, const BlockCounts& counts) {
  VisitGridCounts([&](const char* key, auto member) { AddCount(object, key, counts.*member); });
}
inline void AddCounts(JsonObject& object, const BlockCounts& counts) {
  VisitCounts([&](const char* key, auto member) { AddCount(object, key, counts.*member); });
}

// The first version of the documents had moved, equal and re-quantized blocks; counts that came later are zero where
// they are absent.
inline void TakeCount(JsonMembers& members, const char* key, uint64_t BlockCounts::*member, BlockCounts* counts) {
  const bool first = member == &BlockCounts::moved_blocks || member == &BlockCounts::equal_scale_blocks ||
                     member == &BlockCounts::requantized_blocks;
  counts->*member = members.Integer<uint64_t>(key, first ? std::nullopt : std::optional<uint64_t>(0));
}
inline void TakeCount(JsonMembers& members, const char* key, double BlockCounts::*member, BlockCounts* counts) {
  counts->*member = TakeDouble(members, key);
}

// What AddGridCounts wrote.
inline BlockCounts TakeGridCounts(JsonMembers& members) {
  BlockCounts counts;
  VisitGridCounts([&](const char* key, auto member) { TakeCount(members, key, member, &counts); });
  return counts;
}

// What AddGridCounts or AddCounts wrote.
inline BlockCounts TakeCounts(JsonMembers& members) {
  BlockCounts counts;
  VisitCounts([&](const char* key, auto member) { TakeCount(members, key, member, &counts); });
  return counts;
}

template <class Visit>
void VisitChecksums(Visit visit) {
  visit("verified", &ChecksumCounts::verified);
  visit("unverified", &ChecksumCounts::unverified);
  visit("without", &ChecksumCounts::without);
}

inline void AddChecksums(JsonObject& object, const ChecksumCounts& counts) {
  VisitChecksums([&](const char* key, auto member) { object.Number(key, counts.*member); });
}

inline ChecksumCounts TakeChecksums(JsonMembers& members) {
  ChecksumCounts counts;
  VisitChecksums([&](const char* key, auto member) { counts.*member = members.Integer<uint64_t>(key); });
  return counts;
}

// The same for the sums that figures of errors are derived from.
template <class Visit>
void VisitErrorSums(Visit visit) {
  using kernels::ErrorSums;
  visit("elements", &ErrorSums::elements);
  visit("zero_blocks", &ErrorSums::zero_blocks);
  visit("saturated", &ErrorSums::saturated);
  visit("least_scales", &ErrorSums::least_scales);
  visit("largest_scales", &ErrorSums::largest_scales);
  visit("nan_codes", &ErrorSums::nan_codes);
  visit("squared_error", &ErrorSums::error);
  visit("squared_source", &ErrorSums::source);
  visit("squared_target", &ErrorSums::target);
  visit("product", &ErrorSums::product);
  visit("max_error", &ErrorSums::max_error);
  visit("amax", &ErrorSums::amax);
}

// The figures of one tensor or of several. An infinite SQNR (no error at all) is null.
inline void AddError(JsonObject& object, const kernels::ErrorSums& sums) {
  AppendDouble(object.Key("sqnr_db"), SqnrDb(sums));
  AppendDouble(object.Key("relative_rms"), RelativeRms(sums));
  AppendDouble(object.Key("max_error_by_amax"), MaxErrorByAmax(sums));
  AppendDouble(object.Key("cosine"), Cosine(sums));
  VisitErrorSums([&](const char* key, auto member) { AddCount(object, key, sums.*member); });
}

// The sums that AddError wrote; derived figures are passed over.
inline kernels::ErrorSums TakeError(JsonMembers& members) {
  for (const char* derived : {"sqnr_db", "relative_rms", "max_error_by_amax", "cosine"}) members.Find(derived);
  kernels::ErrorSums sums;
  VisitErrorSums([&](const char* key, auto member) { TakeCount(members, key, &(sums.*member)); });
  return sums;
}

}  // namespace mimo
