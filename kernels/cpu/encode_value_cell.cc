// One cell of block FP8 whose rows come from several arrays of values: measured a strip at a time, then encoded. Rows
// are summed in the order of parts, in the segments of kernels/codec/error_lanes.h.
#include <algorithm>

#include "kernels/cpu/encode_table.h"

namespace mimo::kernels {
namespace {

class ValueCell {
 public:
  ValueCell(std::span<const ValuePart> parts, uint64_t cols, Isa isa)
      : parts_(parts), cols_(cols), kernels_(KernelsFor(isa)), encoders_(EncodersFor(isa)) {}

  ValueCellResult Encode(const float* keep) {
    const bool all_finite = MeasureBf16() || Measure();
    result_.kept = keep != nullptr && all_finite && Fp8ScaleFits(Encoding{}, result_.amax, *keep);
    result_.scale = result_.kept ? *keep : Fp8FreshScale(result_.amax);
    double largest = 0;
    Anomalies again;  // counted by the first pass already
    ForStrips(&again, [&](const ValuePart& part, uint64_t row, uint64_t col, size_t count) {
      uint8_t* codes = part.out + row * part.out_row_bytes + col;
      encoders_.fp8(x_, count, result_.scale, codes);
      kernels_.decode_fp8(codes, count, result_.scale, reinterpret_cast<uint8_t*>(y_), false);
      for (size_t at = 0; at < count; at += kStatSegment) {
        const SegmentErrors segment = encoders_.errors(x_ + at, y_ + at, std::min<size_t>(kStatSegment, count - at));
        result_.squared_error = result_.squared_error + segment.sums.error;
        result_.squared_sum = result_.squared_sum + segment.sums.source;
        largest = std::max(largest, segment.max_error);
      }
    });
    result_.max_error = static_cast<float>(largest);
    return result_;
  }

 private:
  // Whether all values are finite.
  bool Measure() {
    bool all_finite = true;
    ForStrips(&result_.anomalies, [&](const ValuePart&, uint64_t, uint64_t, size_t count) {
      result_.amax = std::max(result_.amax, encoders_.amax(x_, count));
      all_finite &= encoders_.max32(reinterpret_cast<const uint8_t*>(x_), count) < kFp32Inf;
    });
    return all_finite;
  }

  // BF16 values tell how large they are as they are stored. False where others, or such as are not finite, are to be
  // looked at.
  bool MeasureBf16() {
    for (const ValuePart& part : parts_) {
      if (part.codec != Codec::kBf16) return false;
      for (uint64_t row = 0; row < part.rows; ++row) {
        const uint8_t* values = static_cast<const uint8_t*>(part.data) + row * part.row_bytes;
        const uint16_t largest = encoders_.max16(values, cols_);
        if (largest >= kBf16Inf) return false;
        result_.amax = std::max(result_.amax, FloatFromBits(uint32_t{largest} << 16));
      }
    }
    return true;
  }

  // visit(part, row of the part, column, columns) with the values in x_.
  template <class Visit>
  void ForStrips(Anomalies* anomalies, const Visit& visit) {
    for (const ValuePart& part : parts_) {
      SourceRows rows;
      rows.source = {.codec = part.codec, .data = part.data, .row_bytes = part.row_bytes};
      rows.rows = part.rows;
      for (uint64_t row = 0; row < part.rows; ++row) {
        for (uint64_t col = 0; col < cols_; col += kEncodeStrip) {
          const size_t count = std::min<uint64_t>(kEncodeStrip, cols_ - col);
          DecodeStrip(kernels_, rows, cols_, row, col, count, x_, anomalies);
          visit(part, row, col, count);
        }
      }
    }
  }

  const std::span<const ValuePart> parts_;
  const uint64_t cols_;
  const Kernels& kernels_;
  const EncodeKernels& encoders_;
  ValueCellResult result_;
  alignas(64) float x_[kEncodeStrip];
  alignas(64) float y_[kEncodeStrip];
};

}  // namespace

ValueCellResult EncodeValueCell(std::span<const ValuePart> parts, uint64_t cols, const float* keep, Isa isa) {
  return ValueCell(parts, cols, isa).Encode(keep);
}

}  // namespace mimo::kernels
