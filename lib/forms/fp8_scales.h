// What may be done with FP8 weights whose scales are not those of the family's releases (F32, of blocks): moved by
// every form that keeps weights as they are, decoded by all, refused where a form has no place for them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/draft/attention.h"
#include "lib/forms/form.h"

namespace mimo {

// Whether a layer is one of `layers` (indices into Inventory::attention, SurveyFacts).
bool HasEqual(const Planning& p, const AttentionWeights& layer, const std::vector<uint32_t>& layers);

// Whether the projections of a layer can become what `request` and `choice` say. kUsage "fp8.mixed_attention" where q,
// k and v are stored differently and their rows or blocks would meet; "fp8.unequal_scales" where input scales that
// differ would become one.
Status CheckScalesOf(const Planning& p, const AttentionRequest& request, const Choice& choice);

// Attention that keeps FP8 codes under scales of rows or tensors; null where there is none.
const Weight* KeptInRows(const Planning& p);

// The refusal of a form that knows FP8 only as the releases have it: kUsage "fp8.no_place". `form`: "rank files of
// vLLM".
Error NoPlaceFor(const Catalogue& catalogue, const Weight& weight, const std::string& form);

}  // namespace mimo
