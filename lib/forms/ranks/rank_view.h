// Rank files shown as the Hugging Face checkpoint in layout fused(ranks) that they were cut from.
#pragma once

#include <set>
#include <string>

#include "lib/forms/view.h"

namespace mimo {

// kBadInput: a rank is missing, ranks disagree about shapes, or an array is none of the form's. `cache_scales`: names
// of constants that hold scales of the KV cache (FilledCacheScales).
Result<View> ViewOfRanks(const Catalogue& stored, const std::set<std::string>& cache_scales = {});

}  // namespace mimo
