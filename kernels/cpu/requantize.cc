// One target cell from parts under different scales. An element matters only through its part and its magnitude code,
// so errors are summed over histograms: part order, then code order. That is the fixed order, and far fewer terms than
// elements.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "kernels/codec/block_scale.h"
#include "kernels/convert.h"

namespace mimo::kernels {
namespace {

using Histogram = std::array<uint64_t, 128>;  // elements by magnitude code

struct Error {
  double squared = 0;
  double largest = 0;
};

Histogram CountCodes(const CellPart& part, uint64_t cols) {
  std::array<Histogram, 2> counts{};  // two, so that equal neighbours do not wait for each other
  for (uint64_t row = 0; row < part.rows; ++row) {
    const uint8_t* codes = part.codes + row * part.code_row_bytes;
    for (uint64_t i = 0; i < cols; ++i) ++counts[i & 1][codes[i] & 0x7F];
  }
  for (size_t code = 0; code < 128; ++code) counts[0][code] += counts[1][code];
  return counts[0];
}

// Adds what one part says about the source values themselves.
void Survey(const CellPart& part, const Histogram& counts, CellResult* result) {
  const float scale = part.scale;
  result->anomalies.bad_scales += Fp8ScaleIsBad(scale);
  result->anomalies.nan_codes += counts[kE4m3Nan];
  for (uint8_t code = 0; code < 128; ++code) {
    if (counts[code] == 0) continue;
    if (scale == 0 && code != 0) result->anomalies.zero_scale_codes += counts[code];
    const float value = std::fabs(Fp8Value(code, scale));
    if (IsInf(value) && IsFinite(scale)) result->anomalies.overflows += counts[code];
    if (!IsFinite(value)) continue;
    result->amax = std::max(result->amax, value);
    result->squared_sum += static_cast<double>(counts[code]) * (static_cast<double>(value) * value);
  }
}

void AddError(const CellPart& part, const Histogram& counts, float scale, Error* error) {
  for (uint8_t code = 0; code < 128; ++code) {
    if (counts[code] == 0) continue;
    const float source = Fp8Value(code, part.scale);
    if (!IsFinite(source)) continue;
    const float target = Fp8Value(Fp8Code(source, scale), scale);
    const double difference = static_cast<double>(target) - source;
    error->squared += static_cast<double>(counts[code]) * (difference * difference);
    error->largest = std::max(error->largest, std::fabs(difference));
  }
}

void WriteCodes(const CellPart& part, uint64_t cols, float scale) {
  std::array<uint8_t, 256> code;
  for (unsigned source = 0; source < 256; ++source) {
    code[source] = Fp8Code(Fp8Value(static_cast<uint8_t>(source), part.scale), scale);
  }
  for (uint64_t row = 0; row < part.rows; ++row) {
    const uint8_t* in = part.codes + row * part.code_row_bytes;
    uint8_t* out = part.out + row * part.out_row_bytes;
    for (uint64_t i = 0; i < cols; ++i) out[i] = code[in[i]];
  }
}

bool SameScale(const CellPart& a, const CellPart& b) {
  return FloatBits(a.scale) == FloatBits(b.scale);
}

}  // namespace

CellResult RequantizeCell(std::span<const CellPart> parts, uint64_t cols, bool fresh_only) {
  CellResult result;
  if (parts.empty()) return result;
  constexpr size_t kKept = 4;  // a cell rarely has more parts; the counts of later ones are taken again
  std::array<Histogram, kKept> kept;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Histogram counts = CountCodes(parts[i], cols);
    if (i < kKept) kept[i] = counts;
    Survey(parts[i], counts, &result);
  }

  result.moved =
      std::all_of(parts.begin(), parts.end(), [&](const CellPart& part) { return SameScale(part, parts[0]); });
  if (result.moved) {
    result.scale = parts[0].scale;
    result.chosen = 0;
    for (const CellPart& part : parts) {
      for (uint64_t row = 0; row < part.rows; ++row) {
        std::memcpy(part.out + row * part.out_row_bytes, part.codes + row * part.code_row_bytes, cols);
      }
    }
    return result;
  }

  Error best;
  const auto consider = [&](float scale, int chosen, bool first) {
    Error error;
    for (size_t i = 0; i < parts.size(); ++i) {
      AddError(parts[i], i < kKept ? kept[i] : CountCodes(parts[i], cols), scale, &error);
    }
    if (!first && !(error.squared < best.squared)) return;
    best = error;
    result.scale = scale;
    result.chosen = chosen;
  };
  bool first = true;
  for (size_t i = 0; i < parts.size() && !fresh_only; ++i) {
    const bool seen = std::any_of(parts.begin(), parts.begin() + static_cast<ptrdiff_t>(i),
                                  [&](const CellPart& part) { return SameScale(part, parts[i]); });
    if (seen || parts[i].scale == 0 || !IsFinite(parts[i].scale)) continue;
    consider(parts[i].scale, static_cast<int>(i), first);
    first = false;
  }
  consider(Fp8FreshScale(result.amax), -1, first);

  result.squared_error = best.squared;
  result.max_error = static_cast<float>(best.largest);
  for (const CellPart& part : parts) WriteCodes(part, cols, result.scale);
  return result;
}

}  // namespace mimo::kernels
