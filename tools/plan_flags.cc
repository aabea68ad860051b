#include "tools/plan_flags.h"

#include "lib/base/checked.h"
#include "lib/plan/words.h"
#include "lib/recipe/recipe.h"
#include "tools/cli.h"

namespace mimo {
namespace {

std::string RecipeList() {
  std::string names;
  for (const std::string& name : RecipeNames()) names += (names.empty() ? "" : ", ") + name;
  return names;
}

std::vector<std::string> DTypeWords() {
  std::vector<std::string> words;
  for (const auto& entry : kDTypeChoices) words.emplace_back(entry.second);
  for (const auto& entry : kRecipesOfDTypes) words.emplace_back(entry.second);
  return words;
}

// --fp8-block without a recipe: blocks of another height, under the source's own scales.
Status TakeBlock(RecipeFlags* flags, PlanOptions* plan) {
  if (flags->fp8_block.empty()) return {};
  for (const int64_t rows : {32, 64, 128})
    if (flags->fp8_block == std::to_string(rows) + "x128") plan->fp8_block_rows = rows;
  if (plan->fp8_block_rows == 0)
    return UsageError("blocks under whose grid the source's scales cannot be moved")
        .Expected("32x128, 64x128 or 128x128")
        .Found("--fp8-block " + flags->fp8_block)
        .Advice("--recipe fp8-all quantizes anew, in any block");
  flags->fp8_block.clear();
  return {};
}

// --dtype and --recipe with the flags that adjust one, as the plan knows them.
Status ChooseRecipe(PlanFlags& a) {
  const std::optional<DTypeChoice> plain = FromWord(kDTypeChoices, a.dtype);
  if (!a.recipe.empty() && plain != DTypeChoice::kKeep)
    return UsageError("contradicting options").Expected("--dtype or --recipe").Found("both");
  const std::string name = plain ? a.recipe : std::string(*FromWord(kRecipesOfDTypes, a.dtype));
  a.plan.dtype = plain.value_or(DTypeChoice::kKeep);
  if (name.empty()) {
    MIMO_RETURN_IF_ERROR(TakeBlock(&a.flags, &a.plan));
    if (a.flags.dialect && a.plan.dtype == DTypeChoice::kKeep && a.typed.contains("--dialect")) {
      a.plan.recipe = KeepInDialect(*a.flags.dialect);
      a.flags.dialect.reset();
    }
    for (const char* flag : kRecipeFlags)
      if (a.flags.any() && a.typed.contains(flag))
        return UsageError("a flag that adjusts a recipe, without one: " + std::string(flag))
            .Id("usage.idle_flag")
            .Expected("--recipe, or --dtype nvfp4|mxfp4|mxfp8|fp8")
            .Found("--dtype " + a.dtype);
    return {};  // variables that adjust recipes wait for one
  }
  MIMO_ASSIGN_OR_RETURN(Recipe recipe, FindRecipe(PosixFileSystem(), name));
  MIMO_RETURN_IF_ERROR(
      AdjustRecipe(PosixFileSystem(), WithoutIdleVariables(PosixFileSystem(), a.flags, a.typed, recipe), &recipe));
  if (a.qkv_option->count() > 0) recipe.qkv.reset();  // an explicit layout wins, keep included
  MIMO_ASSIGN_OR_RETURN(a.plan.recipe, ParseRecipe(RecipeJson(recipe), name));  // the flags may contradict it
  return {};
}

}  // namespace

CLI::App* AddPlanFlags(CLI::App& app, PlanFlags& a) {
  AddTargetFlags(app, a.target, a.plan);
  auto* shape = app.add_option_group("output", "what is written (all part of the plan)");
  shape
      ->add_option("--dtype", a.dtype,
                   cli::WordsAnd(kDTypeChoices, "re-encode what is quantized (BF16 follows for fp16 and fp32); ") +
                       cli::WordsAnd(kRecipesOfDTypes, "the recipe of that type"))
      ->check(CLI::IsMember(DTypeWords()))
      ->capture_default_str();
  shape->add_option("--recipe", a.recipe, "what each weight is stored as: " + RecipeList() + ", or a JSON file");
  AddRecipeFlags(*shape, a.flags);
  a.qkv_option = shape
                     ->add_option_function<std::string>(
                         "--qkv", [&a](const std::string& text) { a.plan.qkv = QkvWish(text); },
                         "auto|keep|split|fused[:C]|split:independent|restore: layout of the attention projections; "
                         "auto: split where fused attention becomes values and nothing else says, else keep; restore: "
                         "of the checkpoint that this one was made from")
                     ->default_str("auto");
  cli::AddSourceQkv(*shape, a.plan.source_qkv, "source");
  shape->add_flag("--lossless", a.plan.lossless, "refuse (exit 1) instead of rounding anything");
  cli::AddWord(*shape, "--on-straddle", a.plan.on_straddle, kStraddlePolicies,
               cli::WordsAnd(kStraddlePolicies, "FP8 blocks that a new grid cuts"));
  cli::AddWord(*shape, "--scale-policy", a.plan.fresh_scales, kScalePolicies,
               cli::WordsAnd(kScalePolicies,
                             "try source scales (with --like: those of REF) first when quantizing anew, or never"));
  shape->add_flag("--text-only", a.plan.text_only, "without vision and audio towers; config.json edited to match");
  shape
      ->add_option("--include", a.plan.include,
                   "only tensors whose output name contains this regular expression (repeatable)")
      ->take_all();
  shape->add_option("--exclude", a.plan.exclude, "not these (repeatable); scales follow their weights")->take_all();
  cli::AddWord(*shape, "--unknown", a.plan.unknown, kUnknownPolicies,
               cli::WordsAnd(kUnknownPolicies, "tensors that no model table knows"));
  shape
      ->add_option("--max-shard-size", a.shard_size,
                   "keep|SIZE: the source's files, or shards of at most SIZE (5GB, 5GiB)")
      ->capture_default_str();
  return shape;
}

Status ReadPlanFlags(PlanFlags& a) {
  if (a.qkv_option->count() == 0) a.plan.qkv = QkvWish("auto");
  MIMO_RETURN_IF_ERROR(FinishTarget(PosixFileSystem(), a.target, a.qkv_option->count() > 0, &a.plan));
  MIMO_RETURN_IF_ERROR(ChooseRecipe(a));
  if (a.shard_size != "keep") {
    const Result<uint64_t> bytes = ParseSize(a.shard_size);
    if (!bytes.ok())
      return UsageError("--max-shard-size is not a size").Expected(bytes.error().expected).Found(a.shard_size);
    a.plan.max_shard_bytes = bytes.value();
    if (a.plan.max_shard_bytes == 0)
      return UsageError("shards of no size")
          .Expected("keep, or a size above 0")
          .Found("--max-shard-size " + a.shard_size);
  }
  return {};
}

}  // namespace mimo
