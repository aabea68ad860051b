#include "tools/recipe_flags.h"

#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <tuple>

#include "lib/recipe/recipe_words.h"
#include "tools/cli.h"

namespace mimo {
namespace {

constexpr auto kUsualDialectFirst =
    Only(kDialects, {Dialect::kModelOpt, Dialect::kCompressedTensors, Dialect::kNative});
constexpr uint64_t kMaxInputScaleBytes = 256ull << 20;

Status ParseBlock(const std::string& text, Recipe* recipe) {
  const char* end = text.data() + text.size();
  const auto rows = std::from_chars(text.data(), end, recipe->fp8_block_rows);
  if (rows.ec == std::errc() && rows.ptr != end && *rows.ptr == 'x') {
    const auto cols = std::from_chars(rows.ptr + 1, end, recipe->fp8_block_cols);
    if (cols.ec == std::errc() && cols.ptr == end) return {};
  }
  return UsageError("--fp8-block is not a block").Expected("ROWSxCOLUMNS, as 128x128").Found(text);
}

Status ReadInputScales(FileSystem& fs, const std::string& path, Recipe* recipe) {
  MIMO_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(fs, path, kMaxInputScaleBytes));
  MIMO_ASSIGN_OR_RETURN(recipe->input_scales, ParseInputScales(text, path));
  return {};
}

}  // namespace

void AddRecipeFlags(CLI::App& app, RecipeFlags& flags) {
  cli::AddWord(app, "--nvfp4-scale", flags.nvfp4_scale, kNvfp4Rules,
               cli::WordsAnd(kNvfp4Rules, "how NVFP4 block scales are chosen (searches cost time)"));
  cli::AddWord(app, "--mx-scale", flags.mx_scale, kMxRules, cli::WordsAnd(kMxRules, "the same of MXFP4 and MXFP8"));
  cli::AddWord(app, "--mx-ties", flags.mx_ties, kTiesAndAlias,
               cli::WordsAnd(kTies, "where MXFP4 rounds what lies halfway"));
  cli::AddWord(app, "--fp8-scale", flags.fp8_power_of_two, kFp8Scales,
               cli::WordsAnd(kFp8Scales, "any block FP8 scale, or powers of two"));
  app.add_option("--fp8-block", flags.fp8_block,
                 "ROWSxCOLUMNS of a block FP8 scale (128x128); without a recipe, codes are moved: ROWSx128");
  app.add_flag("--via-bf16", flags.via_bf16,
               "round values to BF16 before they are quantized, as tools do that pass through BF16");
  cli::AddWord(app, "--dialect", flags.dialect, kUsualDialectFirst,
               cli::WordsAnd(kUsualDialectFirst, "names and config of the output"));
  app.add_flag("--w4a4", flags.w4a4, "declare NVFP4 activations too, with the input scales below");
  app.add_option("--input-scale", flags.input_scale,
                 "of modules that --input-scales does not name, and that have none (1.0)");
  app.add_option("--input-scales", flags.input_scales, "JSON file: input scale by module name");
}

Status AdjustRecipe(FileSystem& fs, const RecipeFlags& flags, Recipe* recipe) {
  if (flags.nvfp4_scale) recipe->nvfp4_rule = *flags.nvfp4_scale;
  if (flags.mx_scale) recipe->mx_rule = *flags.mx_scale;
  if (flags.mx_ties) recipe->mx_ties = *flags.mx_ties;
  if (flags.fp8_power_of_two) recipe->fp8_power_of_two = *flags.fp8_power_of_two;
  if (!flags.fp8_block.empty()) MIMO_RETURN_IF_ERROR(ParseBlock(flags.fp8_block, recipe));
  if (flags.dialect) recipe->dialect = *flags.dialect;
  recipe->via_bf16 |= flags.via_bf16;
  recipe->w4a4 |= flags.w4a4;
  if (!recipe->w4a4 && (flags.input_scale || !flags.input_scales.empty()))
    return UsageError("input scales without quantized activations").Expected("--w4a4 beside them").Found("none");
  if (flags.input_scale) recipe->input_scale = *flags.input_scale;
  if (!flags.input_scales.empty()) MIMO_RETURN_IF_ERROR(ReadInputScales(fs, flags.input_scales, recipe));
  return {};
}

RecipeFlags WithoutIdleVariables(FileSystem& fs, const RecipeFlags& flags, const std::set<std::string>& typed,
                                 const Recipe& recipe) {
  RecipeFlags kept = flags;
  const auto keep = [&](const char* flag, auto member) {
    if (typed.contains(flag)) return;
    RecipeFlags alone;
    alone.w4a4 = flags.w4a4;  // input scales speak of it
    alone.*member = flags.*member;
    Recipe adjusted = recipe;
    if (!AdjustRecipe(fs, alone, &adjusted).ok() || !ParseRecipe(RecipeJson(adjusted), recipe.name).ok())
      kept.*member = {};
  };
  keep("--w4a4", &RecipeFlags::w4a4);
  keep("--nvfp4-scale", &RecipeFlags::nvfp4_scale);
  keep("--mx-scale", &RecipeFlags::mx_scale);
  keep("--mx-ties", &RecipeFlags::mx_ties);
  keep("--fp8-scale", &RecipeFlags::fp8_power_of_two);
  keep("--fp8-block", &RecipeFlags::fp8_block);
  keep("--dialect", &RecipeFlags::dialect);
  keep("--input-scale", &RecipeFlags::input_scale);
  keep("--input-scales", &RecipeFlags::input_scales);
  return kept;
}

Recipe KeepInDialect(Dialect dialect) {
  Recipe recipe;
  recipe.name = "keep";
  recipe.summary = "every weight in the codec that it has, under the names of one dialect";
  recipe.dialect = dialect;
  return recipe;
}

Status CheckFlagsUsed(const std::set<std::string>& typed, const Plan& plan) {
  std::set<Codec> made;
  for (const FuseGroup& group : plan.groups)
    for (const EncodedWeight& weight : group.encoded) made.insert(weight.encoding.codec);
  const auto any = [&](std::initializer_list<Codec> codecs) {
    return std::any_of(codecs.begin(), codecs.end(), [&](Codec codec) { return made.contains(codec); });
  };
  const bool scales = std::any_of(plan.outputs.begin(), plan.outputs.end(),
                                  [](const OutputArray& output) { return !HoldsElements(output.id.part); });
  const bool blocks = any({Codec::kFp8Block}) || (plan.options.fp8_block_rows > 0 && scales);
  const bool nvfp4 = any({Codec::kNvfp4});
  const bool inputs = nvfp4 || std::any_of(plan.outputs.begin(), plan.outputs.end(), [](const OutputArray& output) {
                        const bool input = output.id.part == Part::kInputScale || output.id.part == Part::kInputGlobal;
                        return input && output.transform == Transform::kConstant;
                      });
  const std::tuple<const char*, bool, const char*> flags[] = {
      {"--nvfp4-scale", nvfp4, "weights that are made NVFP4"},
      {"--mx-scale", any({Codec::kMxfp4, Codec::kMxfp8}), "weights that are made MXFP4 or MXFP8"},
      {"--mx-ties", any({Codec::kMxfp4}), "weights that are made MXFP4"},
      {"--fp8-scale", any({Codec::kFp8Block}), "weights that are made block FP8"},
      {"--fp8-block", blocks, "block FP8 weights"},
      {"--via-bf16", !made.empty(), "weights that are quantized"},
      {"--w4a4", inputs, "weights that are made NVFP4, or NVFP4 weights without an input scale"},
      {"--input-scale", inputs, "weights that are made NVFP4, or NVFP4 weights without an input scale"},
      {"--input-scales", inputs, "weights that are made NVFP4, or NVFP4 weights without an input scale"},
      {"--dialect", scales, "quantized weights in the output"},
  };
  for (const auto& [flag, used, needs] : flags)
    if (typed.contains(flag) && !used)
      return UsageError(std::string(flag) + " changes nothing of this conversion")
          .Id("usage.idle_flag")
          .Expected(needs)
          .Found("none")
          .Advice("leave it out, or choose a recipe that has a use for it");
  return {};
}

}  // namespace mimo
