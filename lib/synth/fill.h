// The data of synthetic tensors: a function of (seed, name, position), computed in any order.
// The element conversions here are deliberately not those of kernels/: what is tested must not make its own ground
// truth.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "lib/synth/synth.h"

namespace mimo {

class Filler {
 public:
  explicit Filler(uint64_t seed);

  // Bytes of rows [first, first + rows) of the tensor; a row is one index of its first dimension.
  //  - FP8 codes: finite; exactly one of magnitude 448 (0x7E or 0xFE) in every cell of the chunk grid, as an amax
  //  quantizer
  //    leaves it; the others up to 416, mostly as Gaussian weights give them, one in eight uniform over the codes.
  //  - FP8 scales: amax / 448 with amax spread over a factor of 8 per cell; Q, K and V in different ranges.
  //  - MXFP4: any nibbles; scales 2^-11 to 2^-3.
  //  - BF16 weights about N(0, 0.02), norms near 1, sinks about N(0, 1), router like weights, router bias 70.9 +- 3e-4.
  void Rows(const SynthTensor& tensor, int64_t first, int64_t rows, std::span<std::byte> out) const;

 private:
  uint64_t Key(std::string_view name, std::string_view purpose) const;
  void Fp8Codes(const SynthTensor& tensor, int64_t first, int64_t rows, std::span<std::byte> out) const;
  void Fp8Scales(const SynthTensor& tensor, int64_t first, int64_t rows, std::span<std::byte> out) const;

  uint64_t seed_;
  std::vector<float> normal_;      // 65536 quantiles of a distribution close to N(0, 1)
  std::vector<uint8_t> codes_;     // 65536 FP8 codes
  std::vector<uint16_t> weights_;  // 65536 BF16 weights
};

}  // namespace mimo
