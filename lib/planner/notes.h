// What people should know of a plan beyond its figures.
#pragma once

#include <string>
#include <vector>

#include "lib/plan/plan.h"
#include "lib/planner/target.h"
#include "lib/recipe/recipe.h"

namespace mimo {

struct PlanNotes {
  const LayoutVerdict& verdict;
  const Target& target;
  const PlanOptions& options;
  const Recipe* recipe = nullptr;
  size_t straddling_layers = 0;  // that became BF16, or would be re-quantized when that is not wanted
  uint64_t maybe_exact = 0;      // weights that an exact path may take
  bool resizes = false;
};

void AddNotes(const PlanNotes& notes, std::vector<std::string>* out);

}  // namespace mimo
