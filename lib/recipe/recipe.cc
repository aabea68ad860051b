#include "lib/recipe/recipe.h"

#include <algorithm>
#include <utility>

#include "lib/base/words.h"
#include "lib/model/role_groups.h"

namespace mimo {
namespace {

using kernels::ScaleRule;

constexpr std::pair<ScaleRule, std::string_view> kScaleRules[] = {
    {ScaleRule::kMax, "max"},     {ScaleRule::kFourOverSix, "four-over-six"},
    {ScaleRule::kSweep, "sweep"}, {ScaleRule::kMse, "mse"},
    {ScaleRule::kRceil, "rceil"}, {ScaleRule::kFloor, "floor"},
    {ScaleRule::kEven, "even"},   {ScaleRule::kCeil, "ceil"},
};

constexpr std::pair<StoredAs, std::string_view> kStoredAs[] = {
    {StoredAs::kKeep, "keep"}, {StoredAs::kBf16, "bf16"},   {StoredAs::kFp16, "fp16"},   {StoredAs::kFp32, "fp32"},
    {StoredAs::kFp8, "fp8"},   {StoredAs::kNvfp4, "nvfp4"}, {StoredAs::kMxfp4, "mxfp4"}, {StoredAs::kMxfp8, "mxfp8"},
};

static_assert(NamesEach(kScaleRules) && NamesEach(kStoredAs));

// Roles that a rule matches without naming them.
bool IsProjection(Role role) {
  return role == Role::kLmHead || (IsLayerLinear(role) && role != Role::kMtpEhProj);
}

bool RolesMatch(const RecipeRule& rule, Role role) {
  if (rule.roles.empty()) return IsProjection(role);
  return std::any_of(rule.roles.begin(), rule.roles.end(), [role](Role one) {
    return one == role || (IsAttentionProjection(one) && IsAttentionProjection(role));
  });
}

}  // namespace

std::optional<ScaleRule> ScaleRuleFromName(std::string_view name) {
  for (const auto& [rule, text] : kScaleRules) {
    if (text == name) return rule;
  }
  return std::nullopt;
}

std::string_view ScaleRuleName(ScaleRule rule) {
  for (const auto& [value, name] : kScaleRules) {
    if (value == rule) return name;
  }
  return "max";
}

std::optional<StoredAs> StoredAsFromName(std::string_view name) {
  for (const auto& [value, text] : kStoredAs) {
    if (text == name) return value;
  }
  return std::nullopt;
}

std::string_view StoredAsName(StoredAs stored_as) {
  for (const auto& [value, name] : kStoredAs) {
    if (value == stored_as) return name;
  }
  return "keep";
}

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

RecipeMatcher::RecipeMatcher(const Recipe& recipe) : recipe_(recipe), matched_(recipe.rules.size(), 0) {
  names_.reserve(recipe.rules.size());
  for (const RecipeRule& rule : recipe.rules) names_.push_back(Pattern::Make(rule.names).value());
}

StoredAs RecipeMatcher::Match(const TensorId& id, const std::string& name) {
  for (size_t i = 0; i < recipe_.rules.size(); ++i) {
    const RecipeRule& rule = recipe_.rules[i];
    if (!RolesMatch(rule, id.role)) continue;
    if (rule.mtp && *rule.mtp != id.mtp) continue;
    if (!rule.names.empty() && !names_[i].FoundIn(name)) continue;
    matched_[i] = 1;
    return rule.to;
  }
  return StoredAs::kKeep;
}

Status RecipeMatcher::CheckAllMatched() const {
  for (size_t i = 0; i < recipe_.rules.size(); ++i) {
    const RecipeRule& rule = recipe_.rules[i];
    if (matched_[i] || rule.optional) continue;
    Error e = UsageError("rule " + std::to_string(i + 1) + " of the recipe " + recipe_.name + " decides nothing")
                  .Expected("at least one weight that no earlier rule takes");
    for (Role role : rule.roles) e.found += (e.found.empty() ? "roles " : ", ") + std::string(RoleName(role));
    if (rule.mtp) e.found += std::string(e.found.empty() ? "" : "; ") + (*rule.mtp ? "MTP only" : "no MTP");
    if (!rule.names.empty()) e.found += (e.found.empty() ? "names " : "; names ") + rule.names;
    if (e.found.empty()) e.found = "any projection";
    e.found += " -> " + std::string(StoredAsName(rule.to));
    e.advice = "correct the rule, remove it, or say \"optional\": true in it";
    return e;
  }
  return {};
}

}  // namespace mimo
