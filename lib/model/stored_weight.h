// One weight out of the arrays that stand beside each other under its name: which storage they make together, and
// whether they are all there. Reference quantization-formats.md 2.1, 3.1, 3.9, 4.3.
#pragma once

#include <array>
#include <cstdint>

#include "lib/model/inventory.h"

namespace mimo {

// Arrays of one weight by part, kNone where there is none; into Catalogue::arrays.
struct WeightParts {
  std::array<uint32_t, kPartCount> of;
  WeightParts() { of.fill(kNone); }
  uint32_t operator[](Part part) const { return of[static_cast<size_t>(part)]; }
  uint32_t& operator[](Part part) { return of[static_cast<size_t>(part)]; }
};

// What decides is names, dtypes and shapes; the config only says how large the blocks of FP8 are. Storages (codes;
// companions, E8M0 being U8 or F8_E8M0):
//   plain       weight
//   FP8         weight F8_E4M3; weight_scale_inv, weight_scale or scale of F32, BF16, F16 or E8M0: of blocks
//               [ceil(rows/R), ceil(cols/C)], R x C the config's weight_block_size (128 x 128 without one), C a
//               multiple of 32; of rows [rows, 1] or [rows]; of the tensor [], [1] or [1, 1]; maybe input_scale, one
//               element
//   FP8         weight U8 in the shape that the model has, under scales of blocks or rows that are no bytes
//   MXFP4       weight or weight_packed U8 or F4; weight_scale E8M0 [rows, cols/32]
//   MXFP8       weight F8_E4M3; weight_scale or weight_scale_inv E8M0 [rows, cols/32]
//   NVFP4       weight U8 or F4; weight_scale F8_E4M3 [rows, cols/16], weight_scale_2 F32 [] or [1]; maybe input_scale
//   NVFP4       weight_packed U8 or F4; weight_scale F8_E4M3 [rows, cols/16], weight_global_scale; maybe
//               input_global_scale
// Rows of the scales of block FP8 attention are left to the layout decision (lib/layout/decide.h). kBadInput names the
// tensor when a companion is missing, superfluous, or of another type or shape.
Result<Weight> PairWeight(const Catalogue& catalogue, const WeightParts& parts);

// How the checks of this folder name a tensor and its file.
Error BadArray(const Catalogue& catalogue, const StoredArray& array, std::string what);
std::string ShapeText(const std::vector<int64_t>& shape);

}  // namespace mimo
