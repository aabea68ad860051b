// What a planned directory, of whatever form, says about itself: config.json, the index, and what travels along.
#pragma once

#include "lib/forms/form.h"
#include "lib/forms/hf/hf_config.h"

namespace mimo {

// Fills Plan::texts, carried and payload_bytes as the form has them (Form::traits, Amend); outputs are placed. Errors
// of EditHfConfig.
Status DescribeDirectory(const Planning& p, Plan* plan);

// Whether the source stores its routers as BF16.
bool RouterIsBf16(const Planning& p);

}  // namespace mimo
