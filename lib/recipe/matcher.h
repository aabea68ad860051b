// Which rule of a recipe decides about a weight.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/pattern.h"
#include "lib/base/status.h"
#include "lib/recipe/recipe.h"

namespace mimo {

// Applies the rules, and knows which of them decided nothing.
class RecipeMatcher {
 public:
  // The recipe is valid (ParseRecipe) and outlives the matcher.
  explicit RecipeMatcher(const Recipe& recipe);
  // `name` is that of the weight in the output, ending in ".weight" whatever the dialect calls its codes; `released`:
  // the family's quantized releases quantize it (TensorRule::quantized). Not for tensors of one dimension, to which no
  // rule applies.
  StoredAs Match(const TensorId& id, const std::string& name, bool released);
  // kUsage naming the first rule, not optional, that never matched anything.
  Status CheckAllMatched() const;

 private:
  const Recipe& recipe_;
  std::vector<Pattern> names_;
  std::vector<uint8_t> matched_;
};

}  // namespace mimo
