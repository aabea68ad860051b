// Options of mimo-convert that adjust a recipe from the command line.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "lib/base/file_system.h"
#include "lib/recipe/recipe.h"

namespace mimo {

struct RecipeFlags {
  std::string nvfp4_scale, mx_scale, mx_ties, fp8_scale, fp8_block, dialect;  // "": as the recipe says
  bool via_bf16 = false;
  bool w4a4 = false;
  std::optional<float> input_scale;
  std::string input_scales;  // a file
  bool any() const {
    return !nvfp4_scale.empty() || !mx_scale.empty() || !mx_ties.empty() || !fp8_scale.empty() || !fp8_block.empty() ||
           !dialect.empty() || via_bf16 || w4a4 || input_scale || !input_scales.empty();
  }
};

void AddRecipeFlags(CLI::App& app, RecipeFlags& flags);
// kUsage for values that are none; kIo when the file of input scales cannot be read.
Status AdjustRecipe(FileSystem& fs, const RecipeFlags& flags, Recipe* recipe);

}  // namespace mimo
