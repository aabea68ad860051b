// The options of a plan from their JSON; what is left out has its usual value.
#include "lib/json/parse.h"
#include "lib/plan/json_words.h"
#include "lib/plan/plan_json.h"
#include "lib/plan/words.h"

namespace mimo {
namespace {

using Json = nlohmann::json;

void ReadTarget(JsonMembers& members, JsonProblems& problems, PlanOptions* options) {
  options->to = Word(members, problems, "to", kTargets, std::optional(options->to));
  options->format = WordIfAny(members, problems, "format", kForms);
  options->engine_version = members.String("engine_version", options->engine_version);
  options->attention = Word(members, problems, "attention", kAttentionStorages, std::optional(options->attention));
  options->tp = members.Integer<int64_t>("tp", int64_t{0});
  options->ep = members.Integer<int64_t>("ep", int64_t{0});
  options->etp = members.Integer<int64_t>("etp", int64_t{0});
  options->pp = members.Integer<int64_t>("pp", int64_t{0});
  if (const Json* ranks = members.Find("ranks")) {
    for (const Json& rank : *ranks) {
      const std::optional<int64_t> number = IntegerOf<int64_t>(rank);
      if (!number || *number < 0) problems.Add(members.Place(), "ranks", "non-negative integers", ranks);
      options->ranks.push_back(number.value_or(0));
    }
  }
  options->pad = members.Bool("pad");
  options->fold_value_scale = WordIfAny(members, problems, "fold_value_scale", kFoldIntos);
  options->fp8_block_rows = members.Integer<int64_t>("fp8_block_rows", int64_t{0});
  options->expert_codes = WordIfAny(members, problems, "expert_codes", kExpertCodes);
  options->router_bias = WordIfAny(members, problems, "router_bias", kRouterBiases);
  options->form_template = members.String("form_template", options->form_template);
  options->iteration = members.Integer<int64_t>("iteration", int64_t{0});
  options->like = members.Bool("like");
}

}  // namespace

PlanOptions ReadPlanOptions(const Json& object, JsonProblems& problems) {
  PlanOptions options;
  JsonMembers members(object, problems, "options");
  options.dtype = Word(members, problems, "dtype", kDTypeChoices, std::optional(options.dtype));
  if (members.Has("recipe")) {
    const std::string text = members.String("recipe");
    Result<Recipe> recipe = ParseRecipe(text, "the recipe");
    if (!recipe.ok()) problems.AddText("options \"recipe\"", "a recipe as canonical JSON", recipe.error().what);
    if (recipe.ok()) options.recipe = std::move(recipe).value();
  }
  options.qkv = QkvWish(members.String("qkv", options.qkv.text));
  if (const std::string text = members.String("source_qkv", ""); !text.empty()) options.source_qkv = QkvWish(text);
  options.on_straddle = Word(members, problems, "on_straddle", kStraddlePolicies, std::optional(options.on_straddle));
  options.lossless = members.Bool("lossless");
  const std::string policy = members.String("scale_policy", "sticky");
  const std::optional<bool> fresh = FromWord(kScalePolicies, policy);
  if (!fresh) problems.AddText("options \"scale_policy\"", Joined(kScalePolicies, ", ", " or "), policy);
  options.fresh_scales = fresh.value_or(false);
  options.text_only = members.Bool("text_only");
  options.unknown = Word(members, problems, "unknown", kUnknownPolicies, std::optional(options.unknown));
  if (members.Has("include")) options.include = members.Strings("include");
  if (members.Has("exclude")) options.exclude = members.Strings("exclude");
  options.max_shard_bytes = members.Integer<uint64_t>("max_shard_bytes", uint64_t{0});
  ReadTarget(members, problems, &options);
  members.Close();
  return options;
}

Result<PlanOptions> ParsePlanOptionsJson(const std::string& text) {
  MIMO_ASSIGN_OR_RETURN(const Json document, ParseJson<Json>(text, "", kLongDocument));
  JsonProblems problems("", "correct the options");
  PlanOptions options = ReadPlanOptions(document, problems);
  MIMO_RETURN_IF_ERROR(problems.Take());
  return options;
}

}  // namespace mimo
