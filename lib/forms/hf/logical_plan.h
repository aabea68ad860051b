// Every weight of a conversion as a Hugging Face checkpoint has it: the draft that forms arrange into their own.
#pragma once

#include "lib/forms/form.h"

namespace mimo {

// Fills the draft and the tally with the tensors that no table knows (as --unknown says), attention layer by layer,
// then all other weights. kUsage for what cannot be stored as it was asked for, kBadInput for unknown tensors under
// --unknown refuse.
Status FillLogicalPlan(Planning* p);

}  // namespace mimo
