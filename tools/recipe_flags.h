// Options of mimo-convert that adjust a recipe from the command line.
#pragma once

#include <CLI/CLI.hpp>
#include <array>
#include <optional>
#include <set>
#include <string>

#include "lib/base/file_system.h"
#include "lib/plan/plan.h"
#include "lib/recipe/recipe.h"

namespace mimo {

struct RecipeFlags {
  // Without a value, or "": as the recipe says.
  std::optional<kernels::ScaleRule> nvfp4_scale, mx_scale;
  std::optional<kernels::Ties> mx_ties;
  std::optional<bool> fp8_power_of_two;
  std::string fp8_block;
  std::optional<Dialect> dialect;
  bool via_bf16 = false;
  bool w4a4 = false;
  std::optional<float> input_scale;
  std::string input_scales;  // a file
  bool any() const {
    return nvfp4_scale || mx_scale || mx_ties || fp8_power_of_two || !fp8_block.empty() || dialect || via_bf16 ||
           w4a4 || input_scale || !input_scales.empty();
  }
};

inline constexpr std::array kRecipeFlags = {"--nvfp4-scale", "--mx-scale",    "--mx-ties", "--fp8-scale",
                                            "--fp8-block",   "--via-bf16",    "--dialect", "--w4a4",
                                            "--input-scale", "--input-scales"};

void AddRecipeFlags(CLI::App& app, RecipeFlags& flags);
// kUsage for values that are none; kIo when the file of input scales cannot be read.
Status AdjustRecipe(FileSystem& fs, const RecipeFlags& flags, Recipe* recipe);
// `flags` without those that were not typed and that the recipe contradicts: what variables say waits for a recipe that
// has a use for it.
RecipeFlags WithoutIdleVariables(FileSystem& fs, const RecipeFlags& flags, const std::set<std::string>& typed,
                                 const Recipe& recipe);
// The recipe of --dialect alone: everything keeps its codec, under the names of that dialect.
Recipe KeepInDialect(Dialect dialect);
// kUsage for a flag that was typed and changes nothing of the plan. What variables say (MIMO_CONVERT_NVFP4_SCALE) holds
// for whatever has a use for it.
Status CheckFlagsUsed(const std::set<std::string>& typed, const Plan& plan);

}  // namespace mimo
