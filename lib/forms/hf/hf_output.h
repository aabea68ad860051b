// What the config files of a directory must say about its quantization.
#pragma once

#include "lib/draft/draft.h"
#include "lib/forms/hf/hf_quant.h"

namespace mimo {

// The quantized and the unquantized linear modules among the outputs of `draft`, which no form has arranged yet, in
// model order, under every name that readers ask for them (hf_output.cc). The native dialect leaves out what the family
// never lists (router, lm_head, towers).
HfQuantization DescribeQuantization(const Draft& draft, Dialect dialect);

}  // namespace mimo
