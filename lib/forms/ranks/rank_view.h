// Rank files shown as the Hugging Face checkpoint in layout fused(ranks) that they were cut from.
#pragma once

#include "lib/forms/view.h"

namespace mimo {

// kBadInput: a rank is missing, ranks disagree about shapes, or an array is none of the form's.
Result<View> ViewOfRanks(const Catalogue& stored);

}  // namespace mimo
