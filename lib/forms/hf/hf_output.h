// What the config files of a planned Hugging Face directory must say about its quantization.
#pragma once

#include "lib/forms/hf/hf_quant.h"
#include "lib/model/inventory.h"
#include "lib/plan/plan.h"

namespace mimo {

// The quantized and the unquantized linear modules among the outputs of `plan`, in model order, under every name that
// readers ask for them (hf_output.cc). The native dialect leaves out what the family never lists (router, lm_head,
// towers).
HfQuantization DescribeQuantization(const Catalogue& catalogue, const Inventory& inventory, const Plan& plan,
                                    Dialect dialect);

}  // namespace mimo
