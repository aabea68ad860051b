#include "lib/recipe/recipe.h"

namespace mimo {

std::optional<Codec> CodecOf(StoredAs stored_as) {
  switch (stored_as) {
    case StoredAs::kKeep:
      break;
    case StoredAs::kBf16:
      return Codec::kBf16;
    case StoredAs::kFp16:
      return Codec::kFp16;
    case StoredAs::kFp32:
      return Codec::kFp32;
    case StoredAs::kFp8:
      return Codec::kFp8Block;
    case StoredAs::kNvfp4:
      return Codec::kNvfp4;
    case StoredAs::kMxfp4:
      return Codec::kMxfp4;
    case StoredAs::kMxfp8:
      return Codec::kMxfp8;
  }
  return std::nullopt;
}

kernels::Encoding EncodingOf(const Recipe& recipe, StoredAs stored_as) {
  kernels::Encoding encoding;
  encoding.via_bf16 = recipe.via_bf16;
  encoding.codec = CodecOf(stored_as).value_or(Codec::kNvfp4);
  switch (stored_as) {
    case StoredAs::kFp8:
      encoding.block_rows = recipe.fp8_block_rows;
      encoding.block_cols = recipe.fp8_block_cols;
      encoding.power_of_two = recipe.fp8_power_of_two;
      break;
    case StoredAs::kMxfp4:
      encoding.rule = recipe.mx_rule;
      encoding.ties = recipe.mx_ties;
      break;
    case StoredAs::kMxfp8:
      encoding.rule = recipe.mx_rule;
      break;
    case StoredAs::kNvfp4:
      encoding.rule = recipe.nvfp4_rule;
      break;
    case StoredAs::kKeep:  // not encoded
    case StoredAs::kBf16:
    case StoredAs::kFp16:
    case StoredAs::kFp32:
      break;
  }
  return encoding;
}

}  // namespace mimo
