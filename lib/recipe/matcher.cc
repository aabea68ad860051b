#include "lib/recipe/matcher.h"

#include <algorithm>

#include "lib/model/role_groups.h"
#include "lib/recipe/recipe_words.h"

namespace mimo {
namespace {

// Roles that a rule matches without naming them.
bool IsProjection(Role role) {
  return role == Role::kLmHead || (IsLayerLinear(role) && role != Role::kMtpEhProj);
}

bool RolesMatch(const RecipeRule& rule, Role role) {
  if (rule.roles.empty()) return IsProjection(role);
  return std::any_of(rule.roles.begin(), rule.roles.end(), [role](Role one) {
    return one == role || one == DenseOf(role) || (IsAttentionProjection(one) && IsAttentionProjection(role));
  });
}

}  // namespace

RecipeMatcher::RecipeMatcher(const Recipe& recipe) : recipe_(recipe), matched_(recipe.rules.size(), 0) {
  names_.reserve(recipe.rules.size());
  for (const RecipeRule& rule : recipe.rules) names_.push_back(Pattern::Make(rule.names).value());
}

StoredAs RecipeMatcher::Match(const TensorId& id, const std::string& name, bool released) {
  for (size_t i = 0; i < recipe_.rules.size(); ++i) {
    const RecipeRule& rule = recipe_.rules[i];
    if (!RolesMatch(rule, id.role)) continue;
    if (rule.mtp && *rule.mtp != id.mtp) continue;
    if (!rule.names.empty() && !names_[i].FoundIn(name)) continue;
    if (rule.released && !released) continue;
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
    if (rule.released) e.found += "; as released";
    e.found += " -> " + std::string(WordOf(kStoredAs, rule.to));
    e.advice = "correct the rule, remove it, or say \"optional\": true in it";
    return e;
  }
  return {};
}

}  // namespace mimo
