// Random matrices that try hard: odd sizes and strides, unaligned pointers, irregular grids, every kind of scale and
// value.
#pragma once

#include <algorithm>
#include <random>
#include <vector>

#include "tests/unit/kernels/reference.h"

namespace mimo::kernels {

inline uint64_t RowBytes(Codec codec, uint64_t cols) {
  switch (codec) {
    case Codec::kFp32:
      return cols * 4;
    case Codec::kFp8Block:
    case Codec::kMxfp8:
      return cols;
    case Codec::kMxfp4:
    case Codec::kNvfp4:
      return (cols + 1) / 2;
    case Codec::kFp16:
    case Codec::kBf16:
      break;
  }
  return cols * 2;
}

class RandomCase {
 public:
  // `cols` > 0: exactly that many.
  RandomCase(Codec from, Codec to, uint64_t max_rows, uint64_t max_cols, uint64_t seed, uint64_t cols = 0)
      : random_(seed) {
    band_.rows = 1 + Below(max_rows);
    band_.cols = Chance(3) ? std::max<uint64_t>(max_cols / 128, 1) * 128 : 1 + Below(max_cols);
    if (cols > 0) band_.cols = cols;
    const bool tidy = Chance(2);  // aligned and without gaps
    band_.source.codec = from;
    band_.source.row_bytes = RowBytes(from, band_.cols) + (tidy ? 0 : Below(40));
    band_.target.codec = to;
    band_.target.row_bytes = RowBytes(to, band_.cols) + (tidy ? 0 : Below(70));
    source_offset_ = tidy ? 0 : Below(64);
    target_offset_ = tidy ? 0 : Below(64);
    scale_offset_ = tidy ? 0 : Below(8);
    hostile_ = Chance(2);
    FillSource();
    target_.assign(target_offset_ + band_.rows * band_.target.row_bytes + 64 + 64, 0xCD);
  }

  // The band over this case's source and the given target bytes, of the same size as target().
  Band BandInto(std::vector<uint8_t>* target) const {
    Band band = band_;
    band.source.data = Align(source_) + source_offset_;
    band.source.scales = scales_.data() + scale_offset_;
    band.target.data = Align(*target) + target_offset_;
    if (!edges_.empty()) band.column_edges = edges_.data();
    return band;
  }
  std::vector<uint8_t> blank_target() const { return target_; }
  // What a target holds from its aligned start on, gaps included.
  static std::vector<uint8_t> Content(std::vector<uint8_t>* target) {
    return std::vector<uint8_t>(Align(*target), Align(*target) + target->size() - 64);
  }

 private:
  uint64_t Below(uint64_t n) { return random_() % n; }
  bool Chance(uint64_t n) { return Below(n) == 0; }

  static uint8_t* Align(const std::vector<uint8_t>& bytes) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(bytes.data());
    return const_cast<uint8_t*>(bytes.data()) + ((at + 63) / 64 * 64 - at);
  }

  float Scale() {
    const uint32_t mantissa = static_cast<uint32_t>(random_()) & 0x7FFFFF;
    const auto with = [&](uint64_t exponent) {
      return reference::FromBits(static_cast<uint32_t>(exponent) << 23 | mantissa);
    };
    if (!hostile_) return with(112 + Below(8));
    switch (Below(12)) {
      case 0:
        return 0.0f;
      case 1:
        return -0.0f;
      case 2:
        return with(0);  // subnormal
      case 3:
        return with(1 + Below(12));  // products at the subnormal border
      case 4:
        return with(244 + Below(11));  // products at the overflow border
      case 5:
        return with(132 + Below(6));  // FP16's overflow border
      case 6:
        return -with(110 + Below(10));
      case 7:
        return reference::FromBits(Chance(2) ? 0x7F800000u : 0xFF800000u);
      case 8:
        return reference::FromBits((Chance(2) ? 0x7F800001u : 0xFFC00000u) | mantissa);
      default:
        return with(1 + Below(254));
    }
  }

  void FillSource() {
    source_.resize(64 + source_offset_ + band_.rows * band_.source.row_bytes + 64);
    for (uint8_t& byte : source_) byte = static_cast<uint8_t>(random_());
    uint8_t* data = Align(source_) + source_offset_;
    if (band_.source.codec == Codec::kFp8Block) {
      FillGrid();
      if (!hostile_) {
        for (uint8_t& byte : source_) byte = (byte & 0x7F) == 0x7F ? 0x3B : byte;
      }
    } else if (band_.source.codec == Codec::kMxfp4 || band_.source.codec == Codec::kMxfp8) {
      FillE8m0();
    } else if (band_.source.codec == Codec::kNvfp4) {
      FillNvfp4();
    } else {  // random bits are mostly odd or huge: keep some, make the rest ordinary, plant specials
      scales_.resize(8 + scale_offset_);
      const bool wide = band_.source.codec == Codec::kFp32;
      for (uint64_t row = 0; row < band_.rows; ++row) {
        for (uint64_t col = 0; col < band_.cols; ++col) {
          uint8_t* at = data + row * band_.source.row_bytes + col * (wide ? 4 : 2);
          uint32_t bits = static_cast<uint32_t>(random_());
          if (wide) {
            if (!hostile_ || !Chance(8)) bits = (bits & 0x807FFFFF) | static_cast<uint32_t>(100 + Below(40)) << 23;
            if (Chance(16)) bits = (bits & 0xFFFF0000) | (Chance(2) ? 0x8000 : 0x1000);  // ties
            if (hostile_ && Chance(20)) bits = Special(bits, 0x7F800000, 0x80000000, 0x007FFFFF);
            std::memcpy(at, &bits, 4);
          } else {
            const bool half = band_.source.codec == Codec::kFp16;
            uint16_t small = static_cast<uint16_t>(bits);
            if (!hostile_)
              small = static_cast<uint16_t>(half ? (bits & 0xBFFF) : (bits & 0x807F) | (110 + Below(20)) << 7);
            if (hostile_ && Chance(20)) {
              small = static_cast<uint16_t>(half ? Special(bits, 0x7C00, 0x8000, 0x3FF)
                                                 : Special(bits, 0x7F80, 0x8000, 0x7F));
            }
            std::memcpy(at, &small, 2);
          }
        }
      }
    }
  }

  uint32_t Special(uint32_t bits, uint32_t infinity, uint32_t sign, uint32_t mantissa) {
    switch (Below(4)) {
      case 0:
        return infinity | (bits & sign);
      case 1:
        return infinity | (bits & (sign | mantissa)) | 1;  // NaN, quiet or signalling
      case 2:
        return bits & (sign | mantissa);  // subnormal or zero
      default:
        return (infinity - 1) | (bits & sign);  // the largest finite value
    }
  }

  void FillE8m0() {
    band_.source.scale_row_bytes = (band_.cols + 31) / 32 + (Chance(2) ? 0 : Below(9));
    scales_.resize(scale_offset_ + band_.rows * band_.source.scale_row_bytes + 8);
    for (uint8_t& byte : scales_) {
      byte = static_cast<uint8_t>(hostile_ && Chance(4) ? (Chance(2) ? 250 + Below(6) : Below(8)) : 110 + Below(20));
    }
    if (!hostile_ && band_.source.codec == Codec::kMxfp8) {
      for (uint8_t& byte : source_) byte = (byte & 0x7F) == 0x7F ? 0x3B : byte;
    }
  }

  void FillNvfp4() {
    band_.source.scale_row_bytes = (band_.cols + 15) / 16 + (Chance(2) ? 0 : Below(9));
    scales_.resize(scale_offset_ + band_.rows * band_.source.scale_row_bytes + 8);
    for (uint8_t& byte : scales_) {
      byte = static_cast<uint8_t>(hostile_ && Chance(4) ? (Chance(2) ? 0x7E + Below(4) : random_()) : 1 + Below(0x7E));
    }
    band_.source.global = Scale();
    band_.source.global_divides = Chance(2);
    if (band_.source.global_divides && !hostile_) band_.source.global = 1 / band_.source.global;
  }

  void FillGrid() {
    uint64_t blocks;
    if (Chance(2)) {
      edges_.push_back(0);
      while (edges_.back() < band_.cols) {
        const uint64_t width = Chance(3) ? 1 + Below(9) : 1 + Below(300);
        edges_.push_back(static_cast<uint32_t>(std::min<uint64_t>(band_.cols, edges_.back() + width)));
      }
      blocks = edges_.size() - 1;
      band_.column_blocks = static_cast<uint32_t>(blocks);
    } else {
      const uint32_t widths[] = {128, 128, 64, 32, 100, 3};
      band_.column_block = widths[Below(6)];
      blocks = (band_.cols + band_.column_block - 1) / band_.column_block;
    }
    scales_.resize(scale_offset_ + 4 * blocks + 8);
    for (uint64_t block = 0; block < blocks; ++block) {
      const float scale = Scale();
      std::memcpy(scales_.data() + scale_offset_ + 4 * block, &scale, 4);
    }
  }

  std::mt19937_64 random_;
  Band band_;
  bool hostile_ = false;
  uint64_t source_offset_ = 0, target_offset_ = 0, scale_offset_ = 0;
  std::vector<uint8_t> source_, scales_, target_;
  std::vector<uint32_t> edges_;
};

inline constexpr Codec kSources[] = {Codec::kFp32,  Codec::kFp16,  Codec::kBf16, Codec::kFp8Block,
                                     Codec::kMxfp4, Codec::kMxfp8, Codec::kNvfp4};
inline constexpr Codec kTargets[] = {Codec::kFp32, Codec::kFp16, Codec::kBf16};

}  // namespace mimo::kernels
