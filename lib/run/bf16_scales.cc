#include "lib/run/bf16_scales.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/codec/bf16.h"
#include "lib/base/checked.h"
#include "lib/model/scale_values.h"

namespace mimo {
namespace {

// The least BF16 value that is no less than a positive one.
float RoundedUp(float scale) {
  const float near = kernels::Bf16ToFloat(kernels::Bf16FromFloat(scale));
  return near >= scale || !std::isfinite(near) ? near : std::bit_cast<float>(std::bit_cast<uint32_t>(near) + 0x10000u);
}

}  // namespace

Result<kernels::EncodeCounts> EncodeUnderBf16Scales(const kernels::EncodeJob& work, Backend& backend) {
  const uint64_t rows = CeilDiv(work.rows, uint64_t{work.encoding.block_rows});
  const uint64_t cols = CeilDiv(work.cols, uint64_t{work.encoding.block_cols});
  std::vector<float> made(rows * cols), keep;
  if (work.keep != nullptr) {
    keep.resize(made.size());
    for (uint64_t r = 0; r < rows; ++r)
      WidenScales(DType::kBF16, reinterpret_cast<const std::byte*>(work.keep) + r * cols * sizeof(uint16_t), cols,
                  keep.data() + r * cols);
  }
  kernels::EncodeJob wide = work;
  wide.scales = reinterpret_cast<uint8_t*>(made.data());
  wide.scale_row_bytes = cols * sizeof(float);
  wide.keep = keep.empty() ? nullptr : reinterpret_cast<const uint8_t*>(keep.data());
  MIMO_ASSIGN_OR_RETURN(kernels::EncodeCounts counts, backend.Encode(wide));
  keep.resize(made.size());
  for (size_t i = 0; i < made.size(); ++i) keep[i] = RoundedUp(made[i]);
  if (keep != made) {  // again, under what can be stored: every value fits
    wide.keep = reinterpret_cast<const uint8_t*>(keep.data());
    MIMO_ASSIGN_OR_RETURN(const kernels::EncodeCounts again, backend.Encode(wide));
    counts.anomalies = again.anomalies;
  }
  for (uint64_t r = 0; r < rows; ++r)
    for (uint64_t c = 0; c < cols; ++c) {
      const uint16_t stored = kernels::Bf16FromFloat(made[r * cols + c]);
      std::memcpy(work.scales + r * work.scale_row_bytes + c * sizeof stored, &stored, sizeof stored);
    }
  return counts;
}

}  // namespace mimo
