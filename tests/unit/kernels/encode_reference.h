// The encoders again, element by element, from the published rules (quantization-formats.md 3.2, 3.4, 4.1, 4.2, 2.5,
// 4.4) in plain float and double arithmetic: what kernels/encode.h is tested against.
#pragma once

#include <algorithm>
#include <array>

#include "kernels/encode.h"
#include "tests/unit/kernels/reference.h"

namespace mimo::kernels::reference {

struct Encoded {
  std::vector<uint8_t> codes, scales;  // without gaps between rows
  EncodeCounts counts;
  std::vector<ErrorSums> errors;  // sums in plain order: equal up to rounding
};

// E2M1 values and the midpoints between them.
inline const double kHalves[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};

inline unsigned NearestE2m1(double x, bool toward_zero) {
  unsigned code = 0;
  for (unsigned i = 1; i < 8; ++i) {
    const double middle = (kHalves[i - 1] + kHalves[i]) / 2;
    const bool up = toward_zero ? false : i % 2 == 0;  // the even one of i - 1 and i wins
    if (x > middle || (x == middle && up)) code = i;
  }
  return code;
}

inline unsigned NibbleOf(float scaled, float original, bool toward_zero) {
  if (std::isnan(original)) return std::signbit(original) ? 15 : 7;
  return NearestE2m1(std::fabs(scaled), toward_zero) | (scaled < 0 ? 8 : 0);
}

inline unsigned E4m3Of(float scaled, float original) {
  const unsigned sign = std::signbit(original) ? 0x80 : 0;
  if (std::isnan(original)) return sign | 0x7F;
  const unsigned code = Nearest(kE4m3, scaled);
  return sign | (code == kOverflow ? 0x7E : code);
}

inline double E4m3(uint8_t code) {
  return std::copysign(Value(kE4m3, code & 0x7Fu), code & 0x80 ? -1.0 : 1.0);
}

inline float Bf16Rounded(float x) {
  if (!std::isfinite(x)) return x;
  const unsigned code = Nearest(kBf16, x);
  const double magnitude = code == kOverflow ? std::numeric_limits<double>::infinity() : Value(kBf16, code);
  return static_cast<float>(std::copysign(magnitude, x));
}

inline float AmaxOf(const std::vector<float>& v) {
  float amax = 0;
  for (const float x : v) {
    if (std::isfinite(x)) amax = std::max(amax, std::fabs(x));
  }
  return amax;
}

inline float Over(float x, float multiplier) {
  return multiplier == 0 ? (std::isfinite(x) ? 0.0f : x) : x / multiplier;
}

// ---- scales

inline uint8_t ClampedE4m3(float ratio) {
  ratio = std::min(std::max(ratio, 0.001953125f), 448.0f);
  return static_cast<uint8_t>(Nearest(kE4m3, ratio));
}

inline float LossOf(const std::vector<float>& v, uint8_t scale, float global) {
  const float m = static_cast<float>(E4m3(scale)) * global;
  std::array<float, 16> term;
  for (size_t i = 0; i < 16; ++i) {
    const float a = std::isfinite(v[i]) ? std::fabs(v[i]) : 0;
    const float y = static_cast<float>(kHalves[NearestE2m1(Over(a, m), false)]) * m;
    const float d = a - y;
    term[i] = d * d;
  }
  for (size_t half = 8; half > 0; half /= 2) {  // 8, 4, 2, 1 apart
    for (size_t i = 0; i < half; ++i) term[i] = term[i] + term[i + half];
  }
  return term[0];
}

inline uint8_t Nvfp4ScaleOf(const std::vector<float>& v, ScaleRule rule, const Nvfp4Global& global) {
  const float amax = AmaxOf(v);
  if (rule == ScaleRule::kMax) {
    const float r = amax / (6.0f * global.multiplier);
    return ClampedE4m3(r == 0 ? 1.0f : r);
  }
  std::vector<uint8_t> candidates;
  const float normalization = rule == ScaleRule::kFourOverSix ? 256.0f : 448.0f;
  const float tensor = global.amax > 0 ? global.amax : global.multiplier * (6.0f * normalization);
  const auto calibrated = [&](float group) {
    const float part = group / 6.0f == 0 ? 1.0f : group / 6.0f;
    return ClampedE4m3(part * normalization / (tensor / 6.0f));
  };
  if (rule == ScaleRule::kFourOverSix) candidates = {calibrated(amax), calibrated(amax * 1.5f)};
  if (rule == ScaleRule::kSweep) {
    for (int code = 1; code < 0x7F; ++code) candidates.push_back(static_cast<uint8_t>(code));
  }
  if (rule == ScaleRule::kMse) {
    for (int i = 0; i < 39; ++i) {  // linspace: from the start in the first half, from the end in the second
      const double step = static_cast<float>(3.75) / static_cast<float>(38);
      const float factor = static_cast<float>(i < 19 ? 0.25 + step * i : 4.0 - step * (38 - i));
      candidates.push_back(calibrated(amax * factor));
    }
  }
  std::vector<float> losses;
  for (const uint8_t candidate : candidates) losses.push_back(LossOf(v, candidate, global.multiplier));
  return candidates[static_cast<size_t>(std::min_element(losses.begin(), losses.end()) - losses.begin())];
}

// From the definition, with exact powers of two. Sub-2^-126 quotients included.
inline uint8_t MxByteOf(float amax, ScaleRule rule, bool e4m3) {
  if (amax == 0) return 0;
  const int emax = e4m3 ? 8 : 2;
  int exponent = 0;
  if (rule == ScaleRule::kRceil) {
    const float quotient = amax / (e4m3 ? 448.0f : 6.0f);
    if (quotient == 0) return 0;
    exponent = std::ilogb(quotient);
    if (std::ldexp(1.0, exponent) < quotient) ++exponent;
  } else {
    exponent = std::ilogb(amax);
    const double mantissa = std::ldexp(static_cast<double>(amax), -exponent);
    if (rule == ScaleRule::kCeil && mantissa > 1) ++exponent;
    if (rule == ScaleRule::kEven && amax >= 0x1p-126f && mantissa >= (e4m3 ? 1.9375 : 1.75)) ++exponent;
    exponent -= emax;
  }
  return static_cast<uint8_t>(std::clamp(exponent + 127, 0, 254));
}

inline float CellScaleOf(const Encoding& encoding, float amax) {
  if (encoding.neuron) return std::max(amax / 240.0f, 1e-10f);
  if (!encoding.power_of_two) return std::max(amax, 1e-12f) / 448.0f;
  const float quotient = std::max(amax, 1e-4f) / 448.0f;
  int exponent = std::ilogb(quotient);
  if (std::ldexp(1.0, exponent) < quotient) ++exponent;
  return static_cast<float>(std::ldexp(1.0, exponent));
}

// ---- whole matrices

class Encoder {
 public:
  // `keep`: null, or scales without gaps between rows (EncodeJob::keep).
  Encoder(const std::vector<Band>& bands, uint64_t cols, const Encoding& encoding, const Nvfp4Global& global,
          const std::vector<uint8_t>* keep = nullptr)
      : cols_(cols), encoding_(encoding), global_(global), keep_(keep) {
    for (const Band& band : bands) {
      const std::vector<uint32_t> block_of = BlockOf(band);
      out_.counts.anomalies.bad_scales += BadScales(band, block_of);
      for (uint64_t row = 0; row < band.rows; ++row) {
        for (uint64_t col = 0; col < cols; ++col) {
          uint32_t bits = 0;
          const Element e = ElementAt(band, block_of, row, col, &bits);
          Anomalies& anomalies = out_.counts.anomalies;
          Count(e, &anomalies);
          anomalies.overflows += std::isinf(e.value) && e.finite_source;
          const float value = std::isnan(e.value) ? std::copysign(e.value, e.negative ? -1.0f : 1.0f) : e.value;
          const float encoded = encoding.via_bf16 ? Bf16Rounded(value) : value;
          anomalies.overflows += std::isinf(encoded) && std::isfinite(value);
          x_.push_back(value);
          v_.push_back(encoded);
        }
        row_of_.push_back({&band, row});
      }
    }
    rows_ = row_of_.size();
    y_.resize(x_.size());
    out_.errors.resize((rows_ + kStatRows - 1) / kStatRows);
    if (encoding.codec == Codec::kFp8Block) {
      EncodeCells();
    } else {
      EncodeGroups();
    }
    SumErrors();
  }
  const Encoded& result() const { return out_; }

 private:
  struct RowOf {
    const Band* band;
    uint64_t row;
    uint8_t Byte(uint64_t col) const {
      return static_cast<const uint8_t*>(band->source.scales)[row * band->source.scale_row_bytes + col / 32];
    }
    uint8_t Nibble(uint64_t col) const {
      const uint8_t two = static_cast<const uint8_t*>(band->source.data)[row * band->source.row_bytes + col / 2];
      return col % 2 == 0 ? two & 15 : two >> 4;
    }
  };

  // Zero nibbles of a whole source group of MXFP4.
  bool ZeroGroup(const RowOf& row, uint64_t col) const {
    const uint64_t start = col / 32 * 32;
    for (uint64_t i = start; i < std::min(cols_, start + 32); ++i) {
      if ((row.Nibble(i) & 7) != 0) return false;
    }
    return true;
  }

  ErrorSums& SumsOf(uint64_t row) { return out_.errors[row / kStatRows]; }

  void EncodeGroups() {
    const uint64_t width = encoding_.codec == Codec::kNvfp4 ? 16 : 32;
    const bool four_bits = encoding_.codec != Codec::kMxfp8;
    for (uint64_t row = 0; row < rows_; ++row) {
      for (uint64_t col = 0; col < cols_; col += width) {
        const std::vector<float> v(v_.begin() + static_cast<ptrdiff_t>(row * cols_ + col),
                                   v_.begin() + static_cast<ptrdiff_t>(row * cols_ + col + width));
        uint8_t scale = 0;
        std::vector<unsigned> codes = GroupCodes(row, col, v, &scale);
        out_.scales.push_back(scale);
        const double unit = encoding_.codec == Codec::kNvfp4 ? static_cast<float>(E4m3(scale)) * global_.multiplier
                                                             : std::ldexp(1.0, scale - 127);
        bool zero = true;
        for (uint64_t i = 0; i < width; ++i) {
          const double element = four_bits ? std::copysign(kHalves[codes[i] & 7], codes[i] & 8 ? -1.0 : 1.0)
                                           : E4m3(static_cast<uint8_t>(codes[i]));
          y_[row * cols_ + col + i] = static_cast<float>(element * unit);
          zero &= x_[row * cols_ + col + i] == 0;
          const float scaled = encoding_.codec == Codec::kNvfp4 ? Over(v[i], static_cast<float>(unit))
                                                                : static_cast<float>(static_cast<double>(v[i]) / unit);
          SumsOf(row).saturated +=
              std::isfinite(x_[row * cols_ + col + i]) && std::fabs(scaled) > (four_bits ? 6 : 448);
          SumsOf(row).nan_codes += !four_bits && (codes[i] & 0x7F) == 0x7F;
        }
        for (uint64_t i = 0; i < width; i += four_bits ? 2 : 1) {
          out_.codes.push_back(static_cast<uint8_t>(four_bits ? codes[i] | codes[i + 1] << 4 : codes[i]));
        }
        SumsOf(row).zero_blocks += zero;
        const bool nvfp4 = encoding_.codec == Codec::kNvfp4;
        SumsOf(row).least_scales += !zero && scale == (nvfp4 ? 1 : 0);
        SumsOf(row).largest_scales += !zero && scale == (nvfp4 ? 0x7E : 0xFE);
        ++out_.counts.blocks;
      }
    }
  }

  std::vector<unsigned> GroupCodes(uint64_t row, uint64_t col, const std::vector<float>& v, uint8_t* scale) {
    const RowOf& from = row_of_[row];
    std::vector<unsigned> codes(v.size());
    if (encoding_.codec == Codec::kNvfp4 && global_.exact && from.band->source.codec == Codec::kMxfp4) {
      const int under = static_cast<int>(global_.largest_exponent) - from.Byte(col);
      if (from.Byte(col) != 255 && ((under >= 0 && under <= 17) || ZeroGroup(from, col))) {
        *scale = static_cast<uint8_t>(Nearest(kE4m3, std::ldexp(1.0, std::clamp(8 - under, -9, 8))));
        for (size_t i = 0; i < v.size(); ++i) codes[i] = from.Nibble(col + i);
        ++out_.counts.exact_blocks;
        return codes;
      }
    }
    if (encoding_.codec == Codec::kMxfp8 && from.band->source.codec == Codec::kFp8Block) {
      const std::vector<uint32_t> block_of = BlockOf(*from.band);
      const float block = ScaleOf(*from.band, block_of[col]);
      const bool power =
          block > 0 && std::isfinite(block) && block >= 0x1p-127f && std::ldexp(1.0, std::ilogb(block)) == block;
      if (power && block_of[col] == block_of[col + 31]) {
        *scale = static_cast<uint8_t>(std::ilogb(block) + 127);
        const uint8_t* in =
            static_cast<const uint8_t*>(from.band->source.data) + from.row * from.band->source.row_bytes;
        for (size_t i = 0; i < v.size(); ++i) codes[i] = in[col + i];
        ++out_.counts.exact_blocks;
        return codes;
      }
    }
    if (encoding_.codec == Codec::kMxfp4 && from.band->source.codec == Codec::kNvfp4 && keep_ == nullptr) {
      const Source& source = from.band->source;
      const uint8_t* scales = static_cast<const uint8_t*>(source.scales) + from.row * source.scale_row_bytes + col / 16;
      const double block = E4m3(scales[0]);
      const double unit = source.global_divides ? block / source.global : block * source.global;
      const bool power = source.global > 0 && std::isfinite(source.global) && std::isfinite(unit) && unit >= 0x1p-127 &&
                         unit <= 0x1p125 && std::ldexp(1.0, std::ilogb(unit)) == static_cast<float>(unit);
      if (scales[0] == scales[1] && power) {
        *scale = static_cast<uint8_t>(std::ilogb(unit) + 127);
        for (size_t i = 0; i < v.size(); ++i) codes[i] = from.Nibble(col + i);
        ++out_.counts.exact_blocks;
        return codes;
      }
    }
    if (encoding_.codec == Codec::kNvfp4) {
      *scale = Nvfp4ScaleOf(v, encoding_.rule, global_);
      const float m = static_cast<float>(E4m3(*scale)) * global_.multiplier;
      for (size_t i = 0; i < v.size(); ++i) codes[i] = NibbleOf(Over(v[i], m), v[i], false);
      return codes;
    }
    if (encoding_.codec == Codec::kMxfp4 && KeepsByte(v)) {
      *scale = (*keep_)[out_.scales.size()];
      for (size_t i = 0; i < v.size(); ++i) {
        const double scaled = static_cast<double>(v[i]) / std::ldexp(1.0, *scale - 127);
        const unsigned magnitude = NearestE2m1(std::fabs(scaled), encoding_.ties == Ties::kTowardZero);
        codes[i] = magnitude | (std::signbit(v[i]) ? 8 : 0);
      }
      ++out_.counts.kept_blocks;
      return codes;
    }
    *scale = MxByteOf(AmaxOf(v), encoding_.rule, encoding_.codec == Codec::kMxfp8);
    for (size_t i = 0; i < v.size(); ++i) {
      const float scaled = static_cast<float>(static_cast<double>(v[i]) / std::ldexp(1.0, *scale - 127));
      codes[i] = encoding_.codec == Codec::kMxfp8 ? E4m3Of(scaled, v[i])
                                                  : NibbleOf(scaled, v[i], encoding_.ties == Ties::kTowardZero);
    }
    return codes;
  }

  // Whether the next group keeps its byte: 8 would follow 6 in E2M1, and is the even one of the two.
  bool KeepsByte(const std::vector<float>& v) const {
    if (keep_ == nullptr) return false;
    const uint8_t byte = (*keep_)[out_.scales.size()];
    return byte != 255 && std::all_of(v.begin(), v.end(), [&](float x) {
             return std::isfinite(x) && std::fabs(static_cast<double>(x)) / std::ldexp(1.0, byte - 127) < 7;
           });
  }

  // Whether the next cell keeps its scale: none of its codes is beyond the largest.
  bool KeepsScale(const std::vector<float>& v, float* scale) const {
    if (keep_ == nullptr) return false;
    std::memcpy(scale, keep_->data() + out_.scales.size(), 4);
    if (!std::isfinite(*scale) || *scale <= 0) return false;
    return std::all_of(v.begin(), v.end(), [&](float x) {
      const float quotient = std::fabs(x / *scale);
      if (!std::isfinite(x) || !std::isfinite(quotient)) return false;
      const unsigned code = Nearest(kE4m3, quotient);
      return code != kOverflow && code <= (encoding_.neuron ? 0x77u : 0x7Eu);
    });
  }

  void EncodeCells() {
    out_.codes.resize(x_.size());
    const uint64_t height = encoding_.block_rows, width = encoding_.block_cols;
    for (uint64_t top = 0; top < rows_; top += height) {
      for (uint64_t left = 0; left < cols_; left += width) {
        EncodeCell(top, std::min(rows_, top + height), left, std::min(cols_, left + width));
      }
    }
  }

  void EncodeCell(uint64_t top, uint64_t bottom, uint64_t left, uint64_t right) {
    std::vector<float> v;
    bool exact = true, zero = true;
    int least = 255, largest = 0;
    for (uint64_t row = top; row < bottom; ++row) {
      const RowOf& from = row_of_[row];
      for (uint64_t col = left; col < right; ++col) {
        v.push_back(v_[row * cols_ + col]);
        zero &= x_[row * cols_ + col] == 0;
        if (from.band->source.codec != Codec::kMxfp4 || from.Byte(col) == 255) {
          exact = false;
        } else if ((from.Nibble(col) & 7) != 0) {
          least = std::min<int>(least, from.Byte(col));
          largest = std::max<int>(largest, from.Byte(col));
        }
      }
    }
    float kept_scale = 0;
    const bool kept = KeepsScale(v, &kept_scale);
    exact = exact && !kept && !encoding_.neuron && largest >= least && largest - least <= 14 && largest <= 252;
    const float scale = kept    ? kept_scale
                        : exact ? static_cast<float>(std::ldexp(1.0, largest - 127 - 6))
                                : CellScaleOf(encoding_, AmaxOf(v));
    out_.counts.kept_blocks += kept;
    out_.scales.resize(out_.scales.size() + 4);
    std::memcpy(out_.scales.data() + out_.scales.size() - 4, &scale, 4);
    out_.counts.exact_blocks += exact;
    ++out_.counts.blocks;
    SumsOf(bottom - 1).zero_blocks += zero;
    for (uint64_t row = top; row < bottom; ++row) {
      for (uint64_t col = left; col < right; ++col) {
        const uint64_t at = row * cols_ + col;
        const float original = exact ? x_[at] : v_[at];
        const float scaled = original / scale;
        const float most = encoding_.neuron ? 240.0f : 448.0f;
        const unsigned code = E4m3Of(std::isnan(scaled) ? scaled : std::clamp(scaled, -most, most), original);
        out_.codes[at] = static_cast<uint8_t>(code);
        y_[at] = static_cast<float>(E4m3(static_cast<uint8_t>(code)) * static_cast<double>(scale));
        SumsOf(row).nan_codes += (code & 0x7F) == 0x7F;
        SumsOf(row).saturated += std::isfinite(x_[at]) && std::fabs(scaled) > most;
      }
    }
  }

  void SumErrors() {
    for (uint64_t at = 0; at < x_.size(); ++at) {
      if (!std::isfinite(x_[at])) continue;
      ErrorSums& sums = SumsOf(at / cols_);
      const double x = x_[at], y = y_[at];
      sums.error += (y - x) * (y - x);
      sums.source += x * x;
      sums.target += y * y;
      sums.product += x * y;
      sums.max_error = std::max(sums.max_error, std::fabs(y - x));
      sums.amax = std::max(sums.amax, std::fabs(x));
      ++sums.elements;
    }
  }

  const uint64_t cols_;
  uint64_t rows_ = 0;
  const Encoding encoding_;
  const Nvfp4Global global_;
  const std::vector<uint8_t>* const keep_;
  std::vector<RowOf> row_of_;
  std::vector<float> x_, v_, y_;
  Encoded out_;
};

}  // namespace mimo::kernels::reference
