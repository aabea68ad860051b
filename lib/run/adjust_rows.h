// Elements of output rows in memory: filled, adjusted, turned over.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/convert.h"
#include "lib/plan/plan.h"

namespace mimo {

// A rectangle of bytes: `rows` rows of `bytes`, `stride` apart.
struct ByteRectangle {
  std::byte* data = nullptr;
  uint64_t rows = 0;
  uint64_t bytes = 0;
  uint64_t stride = 0;
};

// With one element again and again; zeros when `element` is "".
void FillElements(const ByteRectangle& target, const std::string& element);

struct Adjusted {
  kernels::Anomalies anomalies;
  uint64_t inexact_codes = 0;
};
// E4M3 codes, or F32 values for Adjust::kScale and kCentre (one whole row), in place. NaN stays what it is.
Adjusted AdjustElements(const ByteRectangle& target, Adjust adjust, float factor);

// F32 values in place, `count` of them, that BF16 was widened to: each takes the bits of `kept` that round to it.
// Returns how many do not. `kept` need not be aligned.
uint64_t KeepBits(std::byte* values, const std::byte* kept, uint64_t count);

// Scales of a type of lib/model/scale_values.h that are NaN, infinite or negative.
uint64_t BadScales(DType type, const std::byte* data, uint64_t bytes);
// Whether an output holds scales, which are looked at wherever they go.
bool HoldsScales(const OutputArray& output);

}  // namespace mimo
