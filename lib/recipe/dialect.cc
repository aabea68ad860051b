#include "lib/recipe/dialect.h"

namespace mimo {
namespace {

using enum Dialect;
using enum Codec;
using enum Part;

struct Row {
  Dialect dialect;
  Codec codec;
  WeightArrays arrays;
};

// ModelOpt's own block FP8 (FP8_PB_WO) has scales of four dimensions; what its users mix with NVFP4 are blocks in the
// layout of the original model, which readers find under weight_scale_inv (docs/recipes.md).
constexpr Row kRows[] = {
    {kNative, kFp8Block, {kWeight, DType::kF8E4M3, kScaleInv, DType::kF32}},
    {kNative, kMxfp4, {kWeight, DType::kU8, kScale, DType::kU8}},
    {kModelOpt, kFp8Block, {kWeight, DType::kF8E4M3, kScaleInv, DType::kF32}},
    {kModelOpt, kMxfp8, {kWeight, DType::kF8E4M3, kScale, DType::kU8}},
    {kModelOpt, kNvfp4, {kWeight, DType::kU8, kScale, DType::kF8E4M3, kScale2, false, kInputScale, false}},
    {kCompressedTensors, kFp8Block, {kWeight, DType::kF8E4M3, kScale, DType::kF32}},
    {kCompressedTensors, kMxfp4, {kPacked, DType::kU8, kScale, DType::kU8}},
    {kCompressedTensors, kMxfp8, {kWeight, DType::kF8E4M3, kScale, DType::kU8}},
    {kCompressedTensors, kNvfp4, {kPacked, DType::kU8, kScale, DType::kF8E4M3, kGlobalScale, true, kInputGlobal, true}},
};

}  // namespace

std::optional<WeightArrays> ArraysOf(Dialect dialect, Codec codec) {
  for (const Row& row : kRows) {
    if (row.dialect == dialect && row.codec == codec) return row.arrays;
  }
  return std::nullopt;
}

}  // namespace mimo
