#include "lib/verify/compare/unit.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/codec/bf16.h"
#include "lib/decode/row_bytes.h"
#include "lib/verify/compare/local_step.h"

namespace mimo {

enum class ValueFit : uint8_t { kWithin, kClipped, kBeyond };

namespace {

constexpr int64_t kStripElements = 32 << 10;  // both sides as FP32 stay in the cache

bool SameValue(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || a == b || (std::isnan(a) && std::isnan(b));
}

void AddDiffering(const float* a, const float* b, int64_t row, int64_t cols, Figures* figures) {
  if (std::memcmp(a, b, static_cast<size_t>(cols) * sizeof(float)) == 0) return;
  for (int64_t c = 0; c < cols; ++c) {
    if (SameValue(a[c], b[c])) continue;
    if (figures->differing++ == 0) {
      figures->first_row = row;
      figures->first_col = c;
    }
    figures->non_finite += std::isfinite(a[c]) != std::isfinite(b[c]);
  }
}

// Whether `made`, a value of `codec` under `multiplier`, is what `other` was rounded to.
ValueFit FitOf(Codec codec, float made, float multiplier, float other) {
  const auto fits = [&](float value) {
    // Scales are rounded to FP32, and so are products with them.
    const double slack = std::abs(static_cast<double>(value)) * 0x1p-21;
    return std::abs(static_cast<double>(made) - value) <= HalfStep(codec, made, multiplier, value) + slack;
  };
  const auto via_bf16 = [](float value) { return kernels::Bf16ToFloat(kernels::Bf16FromFloat(value)); };
  if (fits(other)) return ValueFit::kWithin;
  // What computes in BF16 rounds its quotients to that before they become codes.
  const float rounded = via_bf16(other);
  if (fits(rounded) || (multiplier != 0 && fits(via_bf16(rounded / multiplier) * multiplier))) return ValueFit::kWithin;
  return IsClipped(codec, made, multiplier, other) ? ValueFit::kClipped : ValueFit::kBeyond;
}

}  // namespace

Figures& Figures::operator+=(const Figures& other) {
  if (differing == 0) {
    first_row = other.first_row;
    first_col = other.first_col;
  }
  sums += other.sums;
  differing += other.differing;
  non_finite += other.non_finite;
  beyond += other.beyond;
  clipped += other.clipped;
  return *this;
}

struct UnitComparer::Scratch {
  std::vector<float> a, b, multipliers;
  std::vector<ValueFit> fits;
};

UnitComparer::UnitComparer(const ValueRows& a, const ValueRows& b) : a_(a), b_(b) {
  strip_ = std::max<int64_t>(1, kStripElements / std::max<int64_t>(1, a.cols()));
  const auto &x = a.stored_as(), &y = b.stored_as();
  if (!x || !y) return;
  coarser_is_b_ = Coarseness(*y) >= Coarseness(*x);
  coarser_ = coarser_is_b_ ? *y : *x;
  if (*x == *y) return;
  const bool plain_x = IsValueCodec(*x), plain_y = IsValueCodec(*y);
  plain_ = plain_x && plain_y;
  if (plain_x && plain_y)
    rounded_ = *x == Codec::kFp16 || *y == Codec::kFp16 ? Codec::kFp16 : Codec::kBf16;
  else if (plain_x || plain_y)
    rounded_ = plain_x ? *x : *y;
}

Result<UnitResult> UnitComparer::Compare(const StepBuffer& a, const StepBuffer& b, int64_t row, int64_t rows,
                                         bool measure) const {
  UnitResult result;
  const std::vector<Piece> pieces_a = a_.PiecesOf(row, rows), pieces_b = b_.PiecesOf(row, rows);
  const RowsInMemory in_a{a_, a, pieces_a}, in_b{b_, b, pieces_b};
  if (!measure && SameAsStored(in_a, in_b, row, rows)) return result;
  Scratch scratch;
  const int64_t strip = std::min(strip_, rows);
  const auto elements = static_cast<size_t>(strip * a_.cols());
  scratch.a.resize(elements);
  scratch.b.resize(elements);
  for (const bool again : {false, true}) {
    result = UnitResult();
    for (int64_t done = 0; done < rows; done += strip) {
      MIMO_RETURN_IF_ERROR(
          CompareStrip(in_a, in_b, row + done, std::min(strip, rows - done), measure || again, &scratch, &result));
      // Figures are of all rows or of none: what was equal so far is measured too.
      if (result.equality == Equality::kDifferent && !measure && !again) break;
    }
    if (measure || again || result.equality != Equality::kDifferent) break;
  }
  result.measured = result.figures.sums.elements > 0 || measure;
  if (result.equality == Equality::kDifferent && coarser_ && !IsValueCodec(*coarser_) && result.figures.beyond == 0 &&
      result.figures.non_finite == 0)
    result.equality = Equality::kWithin;
  return result;
}

// The rows as values of `codec`.
Status UnitComparer::Decode(const RowsInMemory& side, int64_t row, int64_t rows, Codec codec, std::vector<float>* into,
                            kernels::Anomalies* odd) const {
  const kernels::Target target{codec, into->data(), ColumnBytes(codec, a_.cols())};
  MIMO_ASSIGN_OR_RETURN(const kernels::Anomalies found, side.rows.Make(side.buffer, side.pieces, row, rows, target));
  if (odd != nullptr) *odd += found;
  return {};
}

Status UnitComparer::CompareStrip(const RowsInMemory& a, const RowsInMemory& b, int64_t row, int64_t rows, bool measure,
                                  Scratch* scratch, UnitResult* result) const {
  if (!a_.has_values() || !b_.has_values()) {
    std::vector<std::byte> x(Rows(rows, a_.row_bytes())), y(Rows(rows, b_.row_bytes()));
    a_.Copy(a.buffer, a.pieces, row, rows, x.data());
    b_.Copy(b.buffer, b.pieces, row, rows, y.data());
    if (x != y) result->equality = Equality::kDifferent;
    result->figures.differing += x != y;
    return {};
  }
  Equality equality = SameAsStored(a, b, row, rows) ? Equality::kBytes : Equality::kDifferent;
  if (equality == Equality::kDifferent && plain_ && !measure) {  // widened: nothing is rounded
    MIMO_RETURN_IF_ERROR(Decode(a, row, rows, Codec::kFp32, &scratch->a, nullptr));
    MIMO_RETURN_IF_ERROR(Decode(b, row, rows, Codec::kFp32, &scratch->b, nullptr));
    const auto end = scratch->a.begin() + static_cast<ptrdiff_t>(rows * a_.cols());
    if (std::equal(scratch->a.begin(), end, scratch->b.begin(), SameValue)) equality = Equality::kValues;
  }
  if (equality == Equality::kDifferent && rounded_ && *rounded_ != Codec::kFp32) {
    MIMO_RETURN_IF_ERROR(Decode(a, row, rows, *rounded_, &scratch->a, nullptr));
    MIMO_RETURN_IF_ERROR(Decode(b, row, rows, *rounded_, &scratch->b, nullptr));
    const uint64_t bytes = Rows(rows, ColumnBytes(*rounded_, a_.cols()));
    if (std::memcmp(scratch->a.data(), scratch->b.data(), bytes) == 0) equality = Equality::kRounded;
  }
  if (measure || equality == Equality::kDifferent) {
    MIMO_RETURN_IF_ERROR(Decode(a, row, rows, Codec::kFp32, &scratch->a, &result->odd_a));
    MIMO_RETURN_IF_ERROR(Decode(b, row, rows, Codec::kFp32, &scratch->b, &result->odd_b));
    const auto elements = static_cast<size_t>(rows * a_.cols());
    if (equality != Equality::kBytes &&
        std::equal(scratch->a.begin(), scratch->a.begin() + static_cast<ptrdiff_t>(elements), scratch->b.begin(),
                   SameValue))
      equality = Equality::kValues;
    if (measure || equality == Equality::kDifferent) MIMO_RETURN_IF_ERROR(Measure(a, b, row, rows, scratch, result));
  }
  result->equality = std::max(result->equality, equality);
  return {};
}

// Of values that are in the scratch.
Status UnitComparer::Measure(const RowsInMemory& a, const RowsInMemory& b, int64_t row, int64_t rows, Scratch* scratch,
                             UnitResult* result) const {
  const int64_t cols = a_.cols();
  const uint64_t before = result->figures.differing;
  for (int64_t r = 0; r < rows; ++r) {
    const float* x = scratch->a.data() + r * cols;
    const float* y = scratch->b.data() + r * cols;
    kernels::AddErrors(x, y, static_cast<size_t>(cols), &result->figures.sums);
    AddDiffering(x, y, row + r, cols, &result->figures);
  }
  if (result->figures.differing == before || !coarser_) return {};
  return CountBeyond(a, b, row, rows, scratch, &result->figures);
}

// Either side may have been made from the other, and of two grids either may be the coarser one at a value: it is near
// enough when it is for one of them. So the order of the two does not matter.
Status UnitComparer::CountBeyond(const RowsInMemory& a, const RowsInMemory& b, int64_t row, int64_t rows,
                                 Scratch* scratch, Figures* figures) const {
  const auto elements = static_cast<size_t>(rows * a_.cols());
  scratch->fits.assign(elements, ValueFit::kBeyond);
  // The coarser codec first: it explains nearly all, and then the other's scales are not read.
  for (const bool of_b : {coarser_is_b_, !coarser_is_b_}) {
    const RowsInMemory& side = of_b ? b : a;
    const std::vector<float>&made = of_b ? scratch->b : scratch->a, &other = of_b ? scratch->a : scratch->b;
    scratch->multipliers.resize(scratch->a.size());
    const kernels::Target into{Codec::kFp32, scratch->multipliers.data(), ColumnBytes(Codec::kFp32, a_.cols())};
    if (auto made_it = side.rows.MakeMultipliers(side.buffer, side.pieces, row, rows, into); !made_it.ok())
      return made_it.TakeError();
    bool all_fit = true;
    for (size_t i = 0; i < elements; ++i) {
      ValueFit& fit = scratch->fits[i];
      if (fit == ValueFit::kWithin) continue;
      if (SameValue(made[i], other[i]) || !std::isfinite(made[i] - static_cast<double>(other[i])))
        fit = ValueFit::kWithin;  // what is finite in one side alone is counted as such
      else
        fit = std::min(fit, FitOf(*side.rows.stored_as(), made[i], scratch->multipliers[i], other[i]));
      all_fit = all_fit && fit == ValueFit::kWithin;
    }
    if (all_fit) return {};
  }
  for (size_t i = 0; i < elements; ++i) {
    figures->clipped += scratch->fits[i] == ValueFit::kClipped;
    figures->beyond += scratch->fits[i] == ValueFit::kBeyond;
  }
  return {};
}

}  // namespace mimo
