#include "lib/recipe/recipe.h"

#include <algorithm>

#include "lib/recipe/codec_words.h"
#include "lib/recipe/recipe_words.h"

namespace mimo {

// Each type has the word of its codec; kKeep is the only one without.
static_assert(std::size(kStoredAs) == std::size(kCodecs) + 1);
std::optional<Codec> CodecOf(StoredAs stored_as) {
  return FromWord(kCodecs, WordOf(kStoredAs, stored_as));
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

Recipe RecipeOfFamily(Recipe recipe, const std::string& family) {
  const auto names = [&](const RecipeEngine& engine) { return std::ranges::count(engine.models, family) > 0; };
  std::vector<RecipeEngine> engines;
  for (const RecipeEngine& engine : recipe.engines) {
    const bool told = std::ranges::any_of(
        recipe.engines, [&](const RecipeEngine& other) { return other.name == engine.name && names(other); });
    if (told ? !names(engine) : !engine.models.empty()) continue;
    engines.push_back(engine);
    engines.back().models.clear();
  }
  recipe.engines = std::move(engines);
  return recipe;
}

}  // namespace mimo
