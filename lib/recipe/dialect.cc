#include "lib/recipe/dialect.h"

namespace mimo {
namespace {

struct Row {
  Dialect dialect;
  Codec codec;
  WeightArrays arrays;
};

// ModelOpt's own block FP8 (FP8_PB_WO) has scales of four dimensions; what its users mix with NVFP4 are blocks in the
// layout of the original model, which readers find under weight_scale_inv (docs/recipes.md).
constexpr Row kRows[] = {
    {Dialect::kNative,
     Codec::kFp8Block,
     {Part::kWeight, DType::kF8E4M3, Part::kScaleInv, DType::kF32, {}, false, {}, false}},
    {Dialect::kNative, Codec::kMxfp4, {Part::kWeight, DType::kU8, Part::kScale, DType::kU8, {}, false, {}, false}},
    {Dialect::kModelOpt,
     Codec::kFp8Block,
     {Part::kWeight, DType::kF8E4M3, Part::kScaleInv, DType::kF32, {}, false, {}, false}},
    {Dialect::kModelOpt,
     Codec::kMxfp8,
     {Part::kWeight, DType::kF8E4M3, Part::kScale, DType::kU8, {}, false, {}, false}},
    {Dialect::kModelOpt,
     Codec::kNvfp4,
     {Part::kWeight, DType::kU8, Part::kScale, DType::kF8E4M3, Part::kScale2, false, Part::kInputScale, false}},
    {Dialect::kCompressedTensors,
     Codec::kFp8Block,
     {Part::kWeight, DType::kF8E4M3, Part::kScale, DType::kF32, {}, false, {}, false}},
    {Dialect::kCompressedTensors,
     Codec::kMxfp4,
     {Part::kPacked, DType::kU8, Part::kScale, DType::kU8, {}, false, {}, false}},
    {Dialect::kCompressedTensors,
     Codec::kMxfp8,
     {Part::kWeight, DType::kF8E4M3, Part::kScale, DType::kU8, {}, false, {}, false}},
    {Dialect::kCompressedTensors,
     Codec::kNvfp4,
     {Part::kPacked, DType::kU8, Part::kScale, DType::kF8E4M3, Part::kGlobalScale, true, Part::kInputGlobal, true}},
};

}  // namespace

std::optional<WeightArrays> ArraysOf(Dialect dialect, Codec codec) {
  for (const Row& row : kRows) {
    if (row.dialect == dialect && row.codec == codec) return row.arrays;
  }
  return std::nullopt;
}

}  // namespace mimo
