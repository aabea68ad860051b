// What the config files of a directory must say about its quantization.
#pragma once

#include "lib/draft/draft.h"
#include "lib/forms/quantized_modules.h"

namespace mimo {

// The quantized and the unquantized linear modules among the outputs of a plan, or of a draft that no form has arranged
// yet, in model order, under every name that readers ask for them (hf_output.cc). The native dialect leaves out what
// the family never lists (router, lm_head, towers).
HfQuantization DescribeQuantization(const Catalogue& catalogue, const Inventory& inventory, const Plan& plan,
                                    Dialect dialect);
HfQuantization DescribeQuantization(const Draft& draft, Dialect dialect);

}  // namespace mimo
