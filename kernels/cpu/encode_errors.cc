// ErrorSums: source rows and written codes decoded side by side, in the order of kernels/codec/error_lanes.h.
#include <algorithm>
#include <vector>

#include "kernels/cpu/encode_table.h"

namespace mimo::kernels {
namespace {

// Returns how many elements were added.
uint64_t AddSegments(const EncodeKernels& encoders, const float* x, const float* y, size_t count, ErrorSums* sums) {
  uint64_t finite = 0;
  for (size_t at = 0; at < count; at += kStatSegment) {
    const SegmentErrors segment = encoders.errors(x + at, y + at, std::min<size_t>(kStatSegment, count - at));
    sums->error = sums->error + segment.sums.error;
    sums->source = sums->source + segment.sums.source;
    sums->target = sums->target + segment.sums.target;
    sums->product = sums->product + segment.sums.product;
    sums->max_error = std::max(sums->max_error, segment.max_error);
    sums->amax = std::max(sums->amax, segment.amax);
    finite += segment.elements;
  }
  sums->elements += finite;
  return finite;
}

class Summer {
 public:
  Summer(const EncodeJob& job, const Kernels& kernels, const EncodeKernels& encoders)
      : job_(job), kernels_(kernels), encoders_(encoders), group_(GroupColumns(job.encoding)) {}

  void Sum() {
    std::fill(job_.errors, job_.errors + (job_.rows + kStatRows - 1) / kStatRows, ErrorSums{});
    uint64_t target_row = 0;
    for (const SourceRows& rows : job_.from) {
      for (uint64_t row = 0; row < rows.rows; ++row) SumRow(rows, row, target_row++);
    }
  }

 private:
  void SumRow(const SourceRows& rows, uint64_t row, uint64_t target_row) {
    ErrorSums* sums = &job_.errors[target_row / kStatRows];
    const bool cells = job_.encoding.codec == Codec::kFp8Block;
    if (cells && target_row % job_.encoding.block_rows == 0) {
      cell_seen_.assign((job_.cols + group_ - 1) / group_, false);
    }
    for (uint64_t col = 0; col < job_.cols; col += kEncodeStrip) {
      const size_t count = std::min<uint64_t>(kEncodeStrip, job_.cols - col);
      Anomalies counted_before;
      DecodeStrip(kernels_, rows, job_.cols, row, col, count, x_, &counted_before);
      DecodeTarget(target_row, col, count);
      if (job_.encoding.via_bf16) {
        std::copy(x_, x_ + count, v_);
        encoders_.round_bf16(v_, count);
      }
      const uint64_t finite = AddSegments(encoders_, x_, y_, count, sums);
      any_odd_ = finite != count;
      CountBlocks(target_row, col, count, sums);
    }
    const bool ends = (target_row + 1) % job_.encoding.block_rows == 0 || target_row + 1 == job_.rows;
    if (cells && ends) {  // a cell belongs to the rows where it ends
      for (const bool seen : cell_seen_) sums->zero_blocks += !seen;
    }
  }

  uint8_t* Codes(uint64_t row) const { return job_.codes + row * job_.code_row_bytes; }
  uint8_t* Scales(uint64_t row) const { return job_.scales + row * job_.scale_row_bytes; }
  float CellScale(uint64_t row, uint64_t col) const {
    return FloatFromBits(Load32(Scales(row / job_.encoding.block_rows) + col / group_ * 4));
  }

  void DecodeTarget(uint64_t row, uint64_t col, size_t count) {
    uint8_t* out = reinterpret_cast<uint8_t*>(y_);
    const uint8_t* codes = Codes(row);
    switch (job_.encoding.codec) {
      case Codec::kFp8Block:
        for (uint64_t at = col; at < col + count;) {
          const uint64_t end = std::min(col + count, (at / group_ + 1) * group_);
          kernels_.decode_fp8(codes + at, end - at, CellScale(row, at), out + 4 * (at - col), false);
          at = end;
        }
        break;
      case Codec::kMxfp4:
        kernels_.decode_mxfp4(codes + col / 2, Scales(row) + col / group_, count, out, false);
        break;
      case Codec::kMxfp8:
        for (size_t at = 0; at < count; at += group_) {
          kernels_.decode_fp8(codes + col + at, group_, E8m0ToFloat(Scales(row)[(col + at) / group_]), out + 4 * at,
                              false);
        }
        break;
      case Codec::kNvfp4: {
        float multipliers[kEncodeStrip / kNvfp4Group];
        for (size_t i = 0; i < count / kNvfp4Group; ++i) {
          multipliers[i] = Nvfp4Multiplier(Scales(row)[col / kNvfp4Group + i], job_.global.multiplier, false);
        }
        kernels_.decode_nvfp4(codes + col / 2, multipliers, count, out, false);
        break;
      }
      case Codec::kFp32:
      case Codec::kFp16:
      case Codec::kBf16:
        break;
    }
  }

  // What |x| is divided by, 0 where x' is zero whatever x. (Dividing by a power of two is multiplying by its inverse.)
  float Divisor(uint64_t row, uint64_t col) const {
    switch (job_.encoding.codec) {
      case Codec::kFp8Block:
        return CellScale(row, col);
      case Codec::kMxfp4:
      case Codec::kMxfp8:
        return E8m0ToFloat(Scales(row)[col / group_]);
      case Codec::kNvfp4:
        return Nvfp4Multiplier(Scales(row)[col / group_], job_.global.multiplier, false);
      case Codec::kFp32:
      case Codec::kFp16:
      case Codec::kBf16:
        break;
    }
    return 0;
  }

  float LargestCode() const {
    switch (ElementOf(job_.encoding.codec)) {
      case ElementKind::kE2m1:
        return 6.0f;
      case ElementKind::kE4m3:
        return Fp8CellMax(job_.encoding);
      case ElementKind::kValue:
        break;
    }
    return 0;
  }

  uint64_t Saturated(uint64_t row, uint64_t col, size_t count, const float* x, const float* encoded) const {
    const float divisor = Divisor(row, col);
    if (!(divisor > 0)) return 0;
    uint64_t beyond = encoders_.beyond(encoded, count, divisor, LargestCode());
    if (any_odd_) {  // infinities of the source are no saturated elements
      for (size_t i = 0; i < count; ++i) beyond -= IsInf(x[i]);
    }
    return beyond;
  }

  // What groups and codes show: zero blocks, saturation, scales at their limits, NaN codes.
  void CountBlocks(uint64_t row, uint64_t col, size_t count, ErrorSums* sums) {
    const Codec codec = job_.encoding.codec;
    const bool cells = codec == Codec::kFp8Block;
    if (ElementOf(codec) == ElementKind::kE4m3) {
      sums->nan_codes += CountNanCodes(Codes(row) + col, count);
    }
    for (uint64_t at = col; at < col + count;) {
      const uint64_t end = std::min(col + count, (at / group_ + 1) * group_);
      const float* x = x_ + (at - col);
      const float* encoded = (job_.encoding.via_bf16 ? v_ : x_) + (at - col);
      const bool zero = encoders_.max32(reinterpret_cast<const uint8_t*>(x), end - at) == 0;
      if (!zero) {
        if (cells) cell_seen_[at / group_] = true;
        sums->saturated += Saturated(row, at, end - at, x, encoded);
      }
      if (!cells) {
        const uint8_t scale = Scales(row)[at / group_];
        const bool e4m3 = codec == Codec::kNvfp4;
        sums->zero_blocks += zero;
        sums->least_scales += !zero && scale == (e4m3 ? kNvfp4LeastScale : 0);
        sums->largest_scales += !zero && scale == (e4m3 ? kE4m3MaxCode : 0xFE);
      }
      at = end;
    }
  }

  alignas(64) float x_[kEncodeStrip];
  alignas(64) float v_[kEncodeStrip];  // x rounded to BF16, when that is what was encoded
  alignas(64) float y_[kEncodeStrip];
  const EncodeJob& job_;
  const Kernels& kernels_;
  const EncodeKernels& encoders_;
  const uint64_t group_;
  std::vector<bool> cell_seen_;  // cells of the block of rows at hand in which something was not zero
  bool any_odd_ = false;         // the strip at hand has NaN or infinities
};

}  // namespace

ErrorSums& ErrorSums::operator+=(const ErrorSums& other) {
  error += other.error;
  source += other.source;
  target += other.target;
  product += other.product;
  max_error = std::max(max_error, other.max_error);
  amax = std::max(amax, other.amax);
  elements += other.elements;
  zero_blocks += other.zero_blocks;
  saturated += other.saturated;
  least_scales += other.least_scales;
  largest_scales += other.largest_scales;
  nan_codes += other.nan_codes;
  return *this;
}

void AddErrors(const float* x, const float* y, size_t n, ErrorSums* sums, Isa isa) {
  AddSegments(EncodersFor(isa), x, y, n, sums);
}

void SumErrors(const EncodeJob& job, const Kernels& kernels, const EncodeKernels& encoders) {
  Summer(job, kernels, encoders).Sum();
}

}  // namespace mimo::kernels
