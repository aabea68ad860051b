// Rows of an encoded weight that are put together before they are encoded: from rectangles that lie beside each other,
// and from padding.
#pragma once

#include <optional>

#include "lib/base/status.h"
#include "lib/decode/row_runs.h"
#include "lib/run/encode_strips.h"
#include "lib/run/step_layout.h"

namespace mimo {

// As what the rows of a strip are put together: as they are stored where all are in one codec whose scales can stand
// beside each other, so that whoever encodes them sees what they were (plain values, block FP8, MXFP4); else as
// values of FP32. Padding is zeros, under scales of one.
struct AssembledRows {
  Codec codec = Codec::kFp32;
  uint64_t row_bytes = 0;
  uint64_t scale_row_bytes = 0;  // MXFP4; the scales of block FP8 lie elsewhere
  uint64_t bytes(int64_t rows) const { return static_cast<uint64_t>(rows) * (row_bytes + scale_row_bytes); }
};
// nullopt: every piece of the strip is whole rows of it, wherever in its source they lie.
std::optional<AssembledRows> AssembledRowsOf(const Job& job, const EncodeStrip& strip);

// Puts the rows of `strip` together in `room`, which has `form`.bytes(strip.rows) and outlives `runs`, and adds them to
// `runs`. Returns what was odd about codes that were decoded here and does not show in their values.
Result<kernels::Anomalies> AssembleRows(const StepBuffer& buffer, const EncodeStrip& strip, const AssembledRows& form,
                                        std::byte* room, RowRuns* runs);

}  // namespace mimo
