// A file of input scales from arbitrary bytes: an error, or multipliers that are finite, greater than 0 and in order.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>

#include "lib/recipe/recipe.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto scales = mimo::ParseInputScales(text, "scales");
  if (!scales.ok()) return 0;
  for (size_t i = 0; i < scales.value().size(); ++i) {
    const auto& [module, scale] = scales.value()[i];
    if (!std::isfinite(scale) || scale <= 0 || (i > 0 && scales.value()[i - 1].first >= module)) __builtin_trap();
  }
  return 0;
}
