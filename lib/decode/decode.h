// Any stored weight as rows of plain values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "kernels/convert.h"
#include "lib/base/status.h"
#include "lib/decode/row_runs.h"

namespace mimo {

// Converts bands as kernels::ConvertBands does. Its errors end the decoding; the target is then unspecified.
using BandConverter = std::function<Result<kernels::Anomalies>(std::span<const kernels::Band>)>;

// The values of `from`, at least one row, become rows of `target`, which has room for them. What was odd about them is
// counted; scales once per band, however a source is cut (SourceRectangle::first_row).
Result<kernels::Anomalies> Decode(const SourceMemory& memory, const SourceRectangle& from, kernels::Target target,
                                  const BandConverter& convert);

// The values times `factor` in FP32, with one rounding to the codec of the target.
Result<kernels::Anomalies> DecodeScaled(const SourceMemory& memory, const SourceRectangle& from, float factor,
                                        kernels::Target target, const BandConverter& convert);

// F32 values, aligned or not, times `factor`, in place. NaN stays what it is. Returns how many became infinite.
uint64_t ScaleValues(std::span<std::byte> values, float factor);

// F32 values, aligned or not, less their mean, in place: that of the finite ones, summed in their order in FP64,
// rounded once to FP32, subtracted in FP32. Values within a factor of two of it, as the biases of V2.5-Pro are, lose
// nothing (Sterbenz). Counts what is not finite, which stays what it is.
kernels::Anomalies CentreValues(std::span<std::byte> values);

}  // namespace mimo
