#include "lib/verify/compare/elements.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "kernels/codec/bf16.h"
#include "kernels/codec/e4m3.h"
#include "kernels/codec/e5m2.h"
#include "kernels/codec/fp16.h"
#include "lib/base/checked.h"
#include "lib/recipe/codec_types.h"

namespace mimo {
namespace {

constexpr int64_t kScaleRows = 32;  // rows that lie under one scale, wherever a grid begins
constexpr float kBf16Step = 0x1p-8f;

float ToBf16(float value) {
  return kernels::Bf16ToFloat(kernels::Bf16FromFloat(value));
}

float Rounded(float value, Codec codec) {
  if (codec == Codec::kBf16) return ToBf16(value);
  if (codec == Codec::kFp16) return kernels::Fp16ToFloat(kernels::Fp16FromFloat(value));
  return value;
}

// What of two sides, one of codes and one of a narrow type, the type rounds to.
Codec TypeBesideCodes(const LogicalTensor& a, const LogicalTensor& b) {
  const auto &x = a.rows.stored_as(), &y = b.rows.stored_as();
  if (!x || !y || IsValueCodec(*x) == IsValueCodec(*y)) return Codec::kFp32;
  return IsValueCodec(*x) ? *x : *y;
}

float CutToBf16(float value) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) & 0xFFFF0000u);
}

bool IsAlike(float value, float expected) {
  return std::abs(value - expected) <= std::abs(expected) * kBf16Step;
}

// What a value would be if its code, of E4M3, were one of E5M2.
float AsE5m2(float value, float multiplier) {
  return kernels::E5m2ToFloat(kernels::E4m3FromFloat(value / multiplier, true)) * multiplier;
}

// Cells whose differing elements a rule explains, for every rule.
struct RuleVotes {
  std::array<uint64_t, 6> cells{};
  uint64_t differing = 0, told = 0, not_bf16 = 0, elements = 0;
  int64_t first_row = -1, first_col = -1;

  void Add(const ElementVotes& votes) {
    ++told;
    not_bf16 += votes.not_bf16;
    elements += votes.differing;
    if (votes.differing == 0) return;
    ++differing;
    const std::array<uint64_t, 6> of_rules = {votes.rounded,   votes.truncated, votes.negated,
                                              votes.exchanged, votes.e5m2,      votes.clipped};
    for (size_t i = 0; i < of_rules.size(); ++i) cells[i] += of_rules[i] * 10 >= votes.differing * 9;
  }
};

struct ElementRule {
  const char* kind;
  const char* words;
};
constexpr std::array<ElementRule, 6> kElementRules = {
    {{"values.f32-bits-lost", "these are the values rounded to BF16"},
     {"values.truncated", "these are the values with the bits beyond BF16 cut off, not rounded"},
     {"values.negated", "these are the values with the other sign"},
     {"codes.pairs-exchanged", "even and odd columns are exchanged, as by nibbles in the other order"},
     {"codes.e5m2", "E4M3 codes were read as E5M2"},
     {"values.clipped", "what is larger than a bound is the bound"}}};

}  // namespace

ElementVotes CountElements(const float* a, const float* b, int64_t n, float multiplier, Codec rounded_to) {
  ElementVotes votes;
  float largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::abs(b[i]));
  for (int64_t i = 0; i < n; ++i) {
    const float x = a[i], y = b[i];
    votes.not_bf16 += x != CutToBf16(x) && !std::isnan(x);
    if (x == y || (std::isnan(x) && std::isnan(y)) || Rounded(x, rounded_to) == Rounded(y, rounded_to)) continue;
    if (votes.differing++ == 0) votes.first = i;
    votes.rounded += y == ToBf16(x);
    votes.truncated += y == CutToBf16(x);
    votes.negated += IsAlike(y, -x);
    const int64_t other = i % 2 == 0 ? i + 1 : i - 1;
    votes.exchanged += other < n && IsAlike(y, a[other]);
    votes.clipped += std::signbit(x) == std::signbit(y) && std::abs(x) > std::abs(y) && IsAlike(std::abs(y), largest);
    if (!(multiplier > 0)) continue;
    const float e5m2 = AsE5m2(x, multiplier);
    votes.e5m2 += std::isfinite(e5m2) ? IsAlike(y, e5m2) : !std::isfinite(y);
  }
  return votes;
}

Result<PlaceFinding> FindElementwise(const LogicalCheckpoint& a, const LogicalCheckpoint& b, const TensorPair& pair) {
  const int64_t cols = pair.a->rows.cols(), across = CeilDiv(cols, kCellColumns);
  std::vector<float> multipliers;
  if (pair.a->rows.stored_as() == Codec::kFp8Block && pair.a->rows.rows() > 1)
    MIMO_RETURN_IF_ERROR(ReadMultipliers(a, *pair.a, kScaleRows, kCellColumns, &multipliers));
  const Codec rounded_to = TypeBesideCodes(*pair.a, *pair.b);
  RuleVotes votes;
  MIMO_RETURN_IF_ERROR(
      VisitRowPairs(a, *pair.a, b, *pair.b, [&](int64_t row, int64_t rows, const float* x, const float* y) {
        for (int64_t r = row; r < row + rows; ++r)
          for (int64_t cell = 0; cell < across; ++cell) {
            const int64_t n = std::min(kCellColumns, cols - cell * kCellColumns);
            const auto at = static_cast<size_t>(r / kScaleRows * across + cell);
            const ElementVotes here = CountElements(x, y, n, multipliers.empty() ? 0 : multipliers[at], rounded_to);
            if (votes.elements == 0 && here.differing > 0) {
              votes.first_row = r;
              votes.first_col = cell * kCellColumns + here.first;
            }
            votes.Add(here);
            x += n;
            y += n;
          }
      }));
  if (votes.elements > 0 && votes.elements <= 2)
    return PlaceFinding{"values.single",
                        std::to_string(votes.elements) + " element" + (votes.elements == 1 ? "" : "s") +
                            ", the first at [" + std::to_string(votes.first_row) + ", " +
                            std::to_string(votes.first_col) + "]",
                        0};
  for (size_t i = 0; i < kElementRules.size(); ++i) {
    if (i == 0 && votes.not_bf16 == 0) continue;
    if (!IsEnough(votes.cells[i], votes.differing - votes.cells[i], votes.told)) continue;
    return PlaceFinding{kElementRules[i].kind,
                        std::string(kElementRules[i].words) + ": " + std::to_string(votes.cells[i]) + " of " +
                            std::to_string(votes.differing) + " cells that differ",
                        0};
  }
  return PlaceFinding();
}

}  // namespace mimo
