// The definitions again, in double arithmetic and written from the formulas: what the kernels are tested against.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/convert.h"

namespace mimo::kernels::reference {

inline uint32_t Bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float FromBits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// A binary floating-point format with `mantissa` explicit bits; the exponent field 1 is 2^(1 - bias).
struct Format {
  int mantissa = 0;
  int bias = 0;
  double max = 0;
};
inline const Format kE4m3{3, 7, 448.0};
inline const Format kE5m2{2, 15, 57344.0};
inline const Format kE2m1{1, 1, 6.0};
inline const Format kFp16{10, 15, 65504.0};
inline const Format kBf16{7, 127, 0x1.FEp127};

// The value of a magnitude code, field by field. The caller knows which codes are special.
inline double Value(const Format& format, unsigned code) {
  const int exponent = static_cast<int>(code >> format.mantissa);
  const double fraction = static_cast<double>(code & ((1u << format.mantissa) - 1)) / (1 << format.mantissa);
  return exponent == 0 ? std::ldexp(fraction, 1 - format.bias) : std::ldexp(1.0 + fraction, exponent - format.bias);
}

constexpr unsigned kOverflow = ~0u;

// The magnitude code nearest to |x|, ties to even; kOverflow when that is beyond the largest. x is not NaN.
inline unsigned Nearest(const Format& format, double x) {
  x = std::fabs(x);
  if (std::isinf(x)) return kOverflow;
  if (x == 0) return 0;
  const int exponent = std::max(std::ilogb(x), 1 - format.bias);
  const double unit = std::ldexp(1.0, exponent - format.mantissa);
  const double units = std::nearbyint(x / unit);  // the division is by a power of two; default rounding is to even
  if (units * unit > format.max) return kOverflow;
  const double whole = std::ldexp(1.0, format.mantissa);
  return static_cast<unsigned>(static_cast<double>(exponent + format.bias - 1) * whole + units);
}

// One matrix element as FP32, and what is odd about it.
struct Element {
  float value = 0;
  bool negative = false;  // the sign, of NaN too
  bool nan_code = false, infinite_source = false, zero_scale_code = false;
  bool finite_source = true;  // the exact value is finite
};

inline Element DecodeFp8(uint8_t code, float scale) {
  Element e;
  const bool nan = (code & 0x7F) == 0x7F;
  e.negative = ((code & 0x80) != 0) != std::signbit(scale);
  e.nan_code = nan;
  e.zero_scale_code = scale == 0 && (code & 0x7F) != 0;
  e.finite_source = !nan && std::isfinite(scale);
  if (nan || std::isnan(scale)) {
    e.value = std::numeric_limits<float>::quiet_NaN();
  } else {
    const double element = std::copysign(Value(kE4m3, code & 0x7Fu), code & 0x80 ? -1.0 : 1.0);
    e.value = static_cast<float>(element * static_cast<double>(scale));  // 4 by 24 bits: exact in double, one rounding
  }
  return e;
}

inline Element DecodeMxfp4(uint8_t nibble, uint8_t byte) {
  Element e;
  e.negative = (nibble & 8) != 0;
  e.nan_code = byte == 255;
  e.finite_source = byte != 255;
  const double magnitude = std::ldexp(Value(kE2m1, nibble & 7u), byte - 127);
  e.value =
      byte == 255 ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(e.negative ? -magnitude : magnitude);
  return e;
}

inline Element DecodeMxfp8(uint8_t code, uint8_t byte) {
  Element e;
  e.negative = (code & 0x80) != 0;
  e.nan_code = byte == 255 || (code & 0x7F) == 0x7F;
  e.finite_source = !e.nan_code;
  const double magnitude = std::ldexp(Value(kE4m3, code & 0x7Fu), byte - 127);
  e.value =
      e.nan_code ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(e.negative ? -magnitude : magnitude);
  return e;
}

inline Element DecodeNvfp4(uint8_t nibble, uint8_t scale, float global, bool divides) {
  Element e;
  e.nan_code = (scale & 0x7F) == 0x7F;
  e.negative = (((nibble >> 3) ^ (scale >> 7)) & 1) != (std::signbit(global) ? 1 : 0);
  e.finite_source = !e.nan_code && std::isfinite(global);
  const double block = std::copysign(Value(kE4m3, scale & 0x7Fu), scale & 0x80 ? -1.0 : 1.0);
  const float multiplier = static_cast<float>(divides ? block / global : block * global);
  e.zero_scale_code = !e.nan_code && multiplier == 0 && (nibble & 7) != 0;
  const double element = std::copysign(Value(kE2m1, nibble & 7u), nibble & 8 ? -1.0 : 1.0);
  e.value = e.nan_code ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(element * multiplier);
  return e;
}

inline Element DecodePlain(Codec codec, uint32_t bits) {
  const Format format = codec == Codec::kFp16 ? kFp16 : kBf16;
  const uint32_t magnitude = codec == Codec::kFp32 ? bits & 0x7FFFFFFF : bits & 0x7FFF;
  const uint32_t infinity = codec == Codec::kFp32 ? 0x7F800000 : codec == Codec::kFp16 ? 0x7C00 : 0x7F80;
  Element e;
  e.negative = (codec == Codec::kFp32 ? bits >> 31 : bits >> 15) != 0;
  e.nan_code = magnitude > infinity;
  e.infinite_source = magnitude == infinity;
  e.finite_source = magnitude < infinity;
  if (e.nan_code) {
    e.value = std::numeric_limits<float>::quiet_NaN();
  } else if (e.infinite_source) {
    e.value = std::numeric_limits<float>::infinity();
  } else {
    e.value = codec == Codec::kFp32 ? FromBits(magnitude) : static_cast<float>(Value(format, magnitude));
  }
  if (e.negative && !e.nan_code) e.value = -e.value;
  return e;
}

// The bits of an element in a target codec; sets `infinite`.
inline uint32_t EncodeAs(Codec codec, const Element& e, bool* infinite) {
  const int sign_bit = codec == Codec::kFp32 ? 31 : 15;
  const uint32_t infinity = codec == Codec::kFp32 ? 0x7F800000 : codec == Codec::kFp16 ? 0x7C00 : 0x7F80;
  const uint32_t nan = codec == Codec::kFp32 ? 0x7FC00000 : codec == Codec::kFp16 ? 0x7E00 : 0x7FC0;
  *infinite = false;
  uint32_t magnitude;
  if (std::isnan(e.value)) {
    magnitude = nan;
  } else if (codec == Codec::kFp32) {
    magnitude = Bits(e.value) & 0x7FFFFFFF;
    *infinite = magnitude == infinity;
  } else {
    const unsigned code = Nearest(codec == Codec::kFp16 ? kFp16 : kBf16, e.value);
    *infinite = code == kOverflow;
    magnitude = code == kOverflow ? infinity : code;
  }
  return magnitude | static_cast<uint32_t>(e.negative) << sign_bit;
}

// The FP8 block of each column.
inline std::vector<uint32_t> BlockOf(const Band& band) {
  std::vector<uint32_t> block_of(band.cols);
  for (uint64_t col = 0; col < band.cols; ++col) {
    uint32_t block = static_cast<uint32_t>(col / band.column_block);
    if (band.column_edges != nullptr) {
      block = 0;
      while (band.column_edges[block + 1] <= col) ++block;
    }
    block_of[col] = block;
  }
  return block_of;
}

inline float ScaleOf(const Band& band, uint32_t block) {
  float scale;
  std::memcpy(&scale, static_cast<const uint8_t*>(band.source.scales) + 4 * block, 4);
  return scale;
}

inline uint64_t BadScales(const Band& band, const std::vector<uint32_t>& block_of) {
  const auto bad = [](float scale) { return !std::isfinite(scale) || scale < 0; };
  if (band.rows == 0) return 0;
  if (band.source.codec == Codec::kNvfp4) return bad(band.source.global) ? 1 : 0;
  uint64_t count = 0;
  for (uint64_t col = 0; band.source.codec == Codec::kFp8Block && col < band.cols; ++col) {
    const bool first = col == 0 || block_of[col] != block_of[col - 1];
    count += first && bad(ScaleOf(band, block_of[col]));
  }
  return count;
}

// One element; `bits` those of a plain one.
inline Element ElementAt(const Band& band, const std::vector<uint32_t>& block_of, uint64_t row, uint64_t col,
                         uint32_t* bits) {
  const uint8_t* in = static_cast<const uint8_t*>(band.source.data) + row * band.source.row_bytes;
  const uint8_t* scales = static_cast<const uint8_t*>(band.source.scales) + row * band.source.scale_row_bytes;
  *bits = 0;
  switch (band.source.codec) {
    case Codec::kFp8Block:
      return DecodeFp8(in[col], ScaleOf(band, block_of[col]));
    case Codec::kMxfp4:
      return DecodeMxfp4(col % 2 == 0 ? in[col / 2] & 15 : in[col / 2] >> 4, scales[col / 32]);
    case Codec::kMxfp8:
      return DecodeMxfp8(in[col], scales[col / 32]);
    case Codec::kNvfp4:
      return DecodeNvfp4(col % 2 == 0 ? in[col / 2] & 15 : in[col / 2] >> 4, scales[col / 16], band.source.global,
                         band.source.global_divides);
    case Codec::kFp32:
    case Codec::kFp16:
    case Codec::kBf16:
      break;
  }
  const size_t size = band.source.codec == Codec::kFp32 ? 4 : 2;
  std::memcpy(bits, in + col * size, size);
  return DecodePlain(band.source.codec, *bits);
}

inline void Count(const Element& e, Anomalies* anomalies) {
  anomalies->nan_codes += e.nan_code;
  anomalies->infinities += e.infinite_source;
  anomalies->zero_scale_codes += e.zero_scale_code;
}

// A band, element by element.
inline Anomalies Convert(const Band& band) {
  Anomalies anomalies;
  const Codec to = band.target.codec;
  const size_t size = to == Codec::kFp32 ? 4 : 2;
  const std::vector<uint32_t> block_of = BlockOf(band);
  anomalies.bad_scales = BadScales(band, block_of);
  for (uint64_t row = 0; row < band.rows; ++row) {
    uint8_t* out = static_cast<uint8_t*>(band.target.data) + row * band.target.row_bytes;
    for (uint64_t col = 0; col < band.cols; ++col) {
      uint32_t bits = 0;
      const Element e = ElementAt(band, block_of, row, col, &bits);
      bool infinite = false;
      uint32_t result = EncodeAs(to, e, &infinite);
      if (band.source.codec == to) result = bits;  // a move keeps NaN payloads
      Count(e, &anomalies);
      anomalies.overflows += infinite && e.finite_source;
      std::memcpy(out + col * size, &result, size);
    }
  }
  return anomalies;
}

}  // namespace mimo::kernels::reference
