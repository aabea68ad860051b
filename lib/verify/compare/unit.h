// Rows of one tensor in two checkpoints: equal as they are stored, as values, once rounded, or how far apart.
#pragma once

#include <cstdint>
#include <optional>

#include "kernels/encode.h"
#include "lib/base/words.h"
#include "lib/verify/compare/raw_rows.h"

namespace mimo {

// From the strictest on; of a tensor it is the last of its rows.
enum class Equality : uint8_t {
  kBytes,    // one codec, the same codes under the same scales
  kValues,   // the same values, decoded to FP32
  kRounded,  // the same values once those of the finer side are rounded to what the other is stored in
  kWithin,   // every value within half a step of the other, by the side whose step is the larger there
  kDifferent,
};
inline constexpr Words<Equality, 5> kEqualities{{{Equality::kBytes, "bytes"},
                                                 {Equality::kValues, "values"},
                                                 {Equality::kRounded, "rounded"},
                                                 {Equality::kWithin, "within-codec"},
                                                 {Equality::kDifferent, "different"}}};

struct Figures {
  kernels::ErrorSums sums;                    // x is A, y is B
  uint64_t differing = 0;                     // elements of other bits; NaN is NaN, and 0 is -0
  uint64_t non_finite = 0;                    // elements that are finite in one side alone
  uint64_t beyond = 0;                        // elements that are more than half a step of either side apart
  uint64_t clipped = 0;                       // elements that are, for their scale ends below them
  int64_t first_row = -1, first_col = -1;     // of the first that differs
  Figures& operator+=(const Figures& other);  // those of later rows
};

struct UnitResult {
  Equality equality = Equality::kBytes;
  bool measured = false;  // figures are of all rows; else of none
  Figures figures;
  kernels::Anomalies odd_a, odd_b;
};

// One tensor of two checkpoints, of one shape.
class UnitComparer {
 public:
  // Both outlive it.
  UnitComparer(const ValueRows& a, const ValueRows& b);

  // Rows that are compared at a time: units are multiples of it, so that sums do not depend on where they are cut.
  int64_t strip_rows() const { return strip_; }
  // What both are rounded to before they are compared; nullopt: they are not.
  const std::optional<Codec>& rounded_to() const { return rounded_; }

  // Rows [row, row + rows), `row` a multiple of strip_rows(). `measure`: figures are made whatever is equal.
  Result<UnitResult> Compare(const StepBuffer& a, const StepBuffer& b, int64_t row, int64_t rows, bool measure) const;

 private:
  struct Scratch;
  Status CompareStrip(const RowsInMemory& a, const RowsInMemory& b, int64_t row, int64_t rows, bool measure,
                      Scratch* scratch, UnitResult* result) const;
  Status Decode(const RowsInMemory& side, int64_t row, int64_t rows, Codec codec, std::vector<float>* into,
                kernels::Anomalies* odd) const;
  Status Measure(const RowsInMemory& a, const RowsInMemory& b, int64_t row, int64_t rows, Scratch* scratch,
                 UnitResult* result) const;
  Status CountBeyond(const RowsInMemory& a, const RowsInMemory& b, int64_t row, int64_t rows, Scratch* scratch,
                     Figures* figures) const;

  const ValueRows& a_;
  const ValueRows& b_;
  int64_t strip_ = 1;
  std::optional<Codec> rounded_;
  std::optional<Codec> coarser_;  // of the two
  bool coarser_is_b_ = false;
  bool plain_ = false;  // both are values of different types
};

}  // namespace mimo
