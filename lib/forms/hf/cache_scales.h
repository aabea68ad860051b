// Scales of the KV cache in an output: one number of each layer's attention, beside whatever module the layout of the
// attention has, never changed.
#pragma once

#include "lib/base/status.h"
#include "lib/forms/form.h"

namespace mimo {

// Adds every scale to the draft, under the name that it has beside the attention of the target. kBadInput: the form has
// no place for them and --unknown does not say drop, or two scales of a layer would have one name.
Status PlanCacheScales(Planning* p);

// What the output declares about its KV cache, as JSON text: what the source does, unless the source has scales and the
// output none. "" nothing.
std::string CacheSchemeOf(const Planning& p, const Plan& plan);

// Adds what people should know of the scales and of what declares them.
void NoteCacheScales(Planning* p, const Plan& plan);

}  // namespace mimo
