// The largest finite magnitude of rows of any source, from codes where their order is that of the values; and the
// choice of an NVFP4 tensor's multiplier.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/encode_table.h"

namespace mimo::kernels {
namespace {

class Measurer {
 public:
  Measurer(uint64_t cols, bool via_bf16, const Kernels& kernels, const EncodeKernels& encoders)
      : cols_(cols), via_bf16_(via_bf16), kernels_(kernels), encoders_(encoders) {}

  void Add(const SourceRows& rows) {
    if (rows.rows == 0 || cols_ == 0) return;
    measured_.all_mxfp4 &= rows.source.codec == Codec::kMxfp4;
    switch (rows.source.codec) {
      case Codec::kFp8Block:
        AddFp8(rows);
        break;
      case Codec::kMxfp4:
        AddMxfp4(rows);
        break;
      case Codec::kMxfp8:
      case Codec::kNvfp4:
        for (uint64_t row = 0; row < rows.rows; ++row) AddStrips(rows, row, 0, cols_);
        break;
      case Codec::kFp32:
      case Codec::kFp16:
      case Codec::kBf16:
        AddPlain(rows);
        break;
    }
  }

  const Measured& measured() const { return measured_; }

 private:
  // False when the value is not finite as it will be encoded: then the elements must be looked at.
  bool Take(float value) {
    const float magnitude = Magnitude(EncodedValue(value, via_bf16_));
    if (!IsFinite(magnitude)) return false;
    measured_.amax = std::max(measured_.amax, magnitude);
    return true;
  }

  // Any source, element by element.
  void AddStrips(const SourceRows& rows, uint64_t row, uint64_t start, uint64_t end) {
    alignas(64) float strip[kEncodeStrip];
    for (uint64_t col = start; col < end; col += kEncodeStrip) {
      const size_t count = std::min<uint64_t>(kEncodeStrip, end - col);
      Anomalies counted_when_encoded;
      DecodeStrip(kernels_, rows, cols_, row, col, count, strip, &counted_when_encoded);
      if (via_bf16_) encoders_.round_bf16(strip, count);
      measured_.amax = std::max(measured_.amax, encoders_.amax(strip, count));
    }
  }

  void AddFp8(const SourceRows& rows) {
    constexpr uint64_t kPanel = 8192;  // columns whose maxima stay in L1 while the rows stream by
    uint8_t largest[kPanel];
    uint64_t block = 0;
    for (uint64_t start = 0; start < cols_; start += kPanel) {
      const uint64_t end = std::min(cols_, start + kPanel);
      std::memset(largest, 0, end - start);
      for (uint64_t row = 0; row < rows.rows; ++row) {
        const uint8_t* codes = static_cast<const uint8_t*>(rows.source.data) + row * rows.source.row_bytes;
        encoders_.column_max(codes + start, end - start, largest);
      }
      for (;; ++block) {  // a block that crosses panels is looked at in each
        const uint64_t from = std::max(start, ColumnEdge(rows, cols_, block));
        const uint64_t to = std::min(end, ColumnEdge(rows, cols_, block + 1));
        if (from < to) {
          const uint8_t code = *std::max_element(largest + (from - start), largest + (to - start));
          if (!Take(Fp8Value(code, ColumnScale(rows, block)))) {
            for (uint64_t row = 0; row < rows.rows; ++row) AddStrips(rows, row, from, to);
          }
        }
        if (to == end) break;
      }
    }
  }

  void AddPlain(const SourceRows& rows) {
    const Codec codec = rows.source.codec;
    for (uint64_t row = 0; row < rows.rows; ++row) {
      const uint8_t* in = static_cast<const uint8_t*>(rows.source.data) + row * rows.source.row_bytes;
      float value;
      if (codec == Codec::kFp32) {
        value = FloatFromBits(encoders_.max32(in, cols_));
      } else {
        const uint16_t bits = encoders_.max16(in, cols_);
        value = codec == Codec::kFp16 ? Fp16ToFloat(bits) : Bf16ToFloat(bits);
      }
      if (!Take(value)) AddStrips(rows, row, 0, cols_);
    }
  }

  void AddMxfp4(const SourceRows& rows) {
    const uint64_t groups = (cols_ + kMxGroup - 1) / kMxGroup;
    for (uint64_t row = 0; row < rows.rows; ++row) {
      const uint8_t* packed = static_cast<const uint8_t*>(rows.source.data) + row * rows.source.row_bytes;
      const uint8_t* bytes = static_cast<const uint8_t*>(rows.source.scales) + row * rows.source.scale_row_bytes;
      for (uint64_t group = 0; group < groups; ++group) {
        const uint8_t byte = bytes[group];
        const bool known = byte >= measured_.least_exponent && byte <= measured_.largest_exponent;
        const bool may_raise = !(Mxfp4Value(7, byte) <= measured_.amax);
        if (byte == kE8m0Nan || (known && !may_raise)) continue;
        AddMxfp4Group(packed + group * kMxGroup / 2, byte, std::min<uint64_t>(kMxGroup, cols_ - group * kMxGroup));
      }
    }
  }

  void AddMxfp4Group(const uint8_t* packed, uint8_t byte, size_t columns) {
    bool zero = true;
    for (size_t i = 0; i < columns; ++i) {
      const uint8_t nibble = packed[i / 2] >> (i % 2 * 4) & 7;
      if (nibble == 0) continue;
      zero = false;
      Take(Mxfp4Value(nibble, byte));
    }
    if (zero) return;
    measured_.least_exponent = std::min(measured_.least_exponent, byte);
    measured_.largest_exponent = std::max(measured_.largest_exponent, byte);
  }

  const uint64_t cols_;
  const bool via_bf16_;
  const Kernels& kernels_;
  const EncodeKernels& encoders_;
  Measured measured_;
};

}  // namespace

Measured& Measured::operator+=(const Measured& other) {
  amax = std::max(amax, other.amax);
  all_mxfp4 = all_mxfp4 && other.all_mxfp4;
  least_exponent = std::min(least_exponent, other.least_exponent);
  largest_exponent = std::max(largest_exponent, other.largest_exponent);
  return *this;
}

Measured MeasureRows(std::span<const SourceRows> rows, uint64_t cols, bool via_bf16, Isa isa) {
  return MeasureRowsWith(rows, cols, via_bf16, KernelsFor(isa), EncodersFor(isa));
}

Measured MeasureRowsWith(std::span<const SourceRows> rows, uint64_t cols, bool via_bf16, const Kernels& kernels,
                         const EncodeKernels& encoders) {
  Measurer measurer(cols, via_bf16, kernels, encoders);
  for (const SourceRows& run : rows) measurer.Add(run);
  return measurer.measured();
}

Nvfp4Global ChooseNvfp4Global(const Measured& group, ScaleRule rule) {
  Nvfp4Global global;
  global.amax = group.amax;
  if (group.all_mxfp4 && group.largest_exponent >= group.least_exponent &&
      group.largest_exponent - group.least_exponent <= kNvfp4ExactSpan &&
      group.largest_exponent <= kMxfp4LargestFinite) {
    global.exact = true;
    global.largest_exponent = group.largest_exponent;
    global.multiplier = Nvfp4ExactMultiplier(group.largest_exponent);
    return global;
  }
  global.multiplier =
      Nvfp4TensorMultiplier(group.amax, rule == ScaleRule::kFourOverSix ? kFourOverSixNormalization : kE4m3Max);
  return global;
}

}  // namespace mimo::kernels
