// A recipe from arbitrary bytes: an error or a recipe, never a crash; and what is accepted has a canonical form that
// reads back as the same recipe.
#include <cstddef>
#include <cstdint>
#include <string>

#include "lib/recipe/matcher.h"
#include "lib/recipe/recipe.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto recipe = mimo::ParseRecipe(text, "recipe.json");
  if (!recipe.ok()) return 0;
  const std::string canonical = mimo::RecipeJson(recipe.value());
  const auto again = mimo::ParseRecipe(canonical, "canonical");
  if (!again.ok() || mimo::RecipeJson(again.value()) != canonical) __builtin_trap();
  mimo::RecipeMatcher matcher(recipe.value());
  mimo::TensorId id;
  id.role = static_cast<mimo::Role>(size % static_cast<size_t>(mimo::Role::kUnknown));
  id.mtp = size % 2 == 0;
  (void)matcher.Match(id, "model.layers.0.mlp.experts.1.up_proj.weight", size % 3 == 0);
  return 0;
}
