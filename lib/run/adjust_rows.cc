#include "lib/run/adjust_rows.h"

#include <cmath>
#include <cstring>

#include "kernels/adjust.h"
#include "kernels/codec/bf16.h"
#include "lib/decode/decode.h"
#include "lib/model/scale_values.h"

namespace mimo {
namespace {

Adjusted AdjustCodes(const ByteRectangle& target, kernels::CodeRule rule) {
  const bool joined = target.bytes == target.stride;
  const uint64_t rows = joined ? 1 : target.rows, count = joined ? target.rows * target.bytes : target.bytes;
  kernels::CodeCounts counts;
  Adjusted adjusted;
  for (uint64_t r = 0; r < rows; ++r) {
    auto* codes = reinterpret_cast<uint8_t*>(target.data + r * target.stride);
    adjusted.anomalies.nan_codes += kernels::CountNanCodes(codes, count);
    counts += kernels::AdjustCodes(rule, codes, codes, count);
  }
  adjusted.anomalies.overflows = counts.overflow;
  adjusted.inexact_codes = counts.inexact;
  return adjusted;
}

Adjusted MultiplyValues(const ByteRectangle& target, float factor) {
  Adjusted counts;
  for (uint64_t r = 0; r < target.rows; ++r) {
    counts.anomalies.overflows += ScaleValues({target.data + r * target.stride, target.bytes}, factor);
  }
  return counts;
}

}  // namespace

void FillElements(const ByteRectangle& target, const std::string& element) {
  for (uint64_t r = 0; r < target.rows; ++r) {
    std::byte* row = target.data + r * target.stride;
    if (element.empty()) {
      std::memset(row, 0, target.bytes);
      continue;
    }
    for (uint64_t i = 0; i + element.size() <= target.bytes; i += element.size()) {
      std::memcpy(row + i, element.data(), element.size());
    }
  }
}

Adjusted AdjustElements(const ByteRectangle& target, Adjust adjust, float factor) {
  switch (adjust) {
    case Adjust::kAsIs:
      break;
    case Adjust::kHalve:
      return AdjustCodes(target, kernels::CodeRule::kHalve);
    case Adjust::kDouble:
      return AdjustCodes(target, kernels::CodeRule::kDouble);
    case Adjust::kNeuron:
      return AdjustCodes(target, kernels::CodeRule::kNeuron);
    case Adjust::kCentre:
      return {CentreValues({target.data, target.bytes}), 0};  // one row
    case Adjust::kScale:
      return MultiplyValues(target, factor);
  }
  return {};
}

uint64_t KeepBits(std::byte* values, const std::byte* kept, uint64_t count) {
  uint64_t lost = 0;
  for (uint64_t i = 0; i < count; ++i) {
    float value = 0, before = 0;
    std::memcpy(&value, values + i * sizeof value, sizeof value);
    std::memcpy(&before, kept + i * sizeof before, sizeof before);
    if (kernels::FloatBits(value) == static_cast<uint32_t>(kernels::Bf16FromFloat(before)) << 16)
      std::memcpy(values + i * sizeof before, &before, sizeof before);
    else
      ++lost;
  }
  return lost;
}

uint64_t BadScales(DType type, const std::byte* data, uint64_t bytes) {
  uint64_t bad = 0;
  const uint64_t element = BitsPerElement(type) / 8;
  for (uint64_t i = 0; i + element <= bytes; i += element) {
    const float scale = WidenScale(type, data + i);
    if (!std::isfinite(scale) || scale < 0) ++bad;
  }
  return bad;
}

bool HoldsScales(const OutputArray& output) {
  const Part part = output.id.part;
  return IsScaleType(output.dtype) && !IsExponentType(output.dtype) &&
         (part == Part::kScaleInv || part == Part::kScale || part == Part::kRowScale);
}

}  // namespace mimo
